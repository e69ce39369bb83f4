"""`mae-fast linprobe`."""

import argparse

from mae_fast.cli.training import add_recipe, recipe_of, run_recipe
from mae_fast.recipe import Linprobe
from mae_fast.train import classify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, Linprobe, "main_linprobe.py")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_recipe(args, classify, recipe_of(args, Linprobe))
