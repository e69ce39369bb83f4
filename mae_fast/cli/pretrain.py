"""`mae-fast pretrain`."""

import argparse

from mae_fast.cli.training import add_recipe, recipe_of, run_recipe
from mae_fast.recipe import Pretrain
from mae_fast.train import pretrain


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_recipe(parser, Pretrain, "main_pretrain.py")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_recipe(args, pretrain, recipe_of(args, Pretrain))
