"""`mae-fast finetune`."""

import argparse

from mae_fast.cli.training import add_recipe, recipe_of, run_recipe
from mae_fast.recipe import Finetune
from mae_fast.train import classify

EXAMPLE = (
    "example: mae-fast finetune --finetune RUN/checkpoint-399.pth --data_path DATA --batch_size 128 "
    "--mixup 0.8 --cutmix 1.0"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    add_recipe(parser, Finetune, "main_finetune.py")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    return run_recipe(args, classify, recipe_of(args, Finetune))
