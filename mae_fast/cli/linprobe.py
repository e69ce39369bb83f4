"""`mae-fast linprobe`."""

import argparse

from mae_fast.cli.training import add_recipe, recipe_of, run_recipe
from mae_fast.recipe import Linprobe
from mae_fast.train import classify

EXAMPLE = "example: mae-fast linprobe --finetune RUN/checkpoint-399.pth --data_path DATA --batch_size 512"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    add_recipe(parser, Linprobe, "main_linprobe.py")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_recipe(args, classify, recipe_of(args, Linprobe))
