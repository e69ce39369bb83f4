"""Small training runs, and what they leave."""

import argparse
from itertools import count

from benchmarks.faults.scene import equal as same
from benchmarks.faults.scene import log
from mae_fast.cli import pretrain as command
from mae_fast.cli.training import recipe_of
from mae_fast.files.checkpoint import load_file
from mae_fast.recipe import Pretrain
from mae_fast.train import pretrain
from mae_fast.train.step import TrainingStep

__all__ = ["flags", "log", "on_update", "parse", "run", "same"]


def flags(photos, out, *more):
    return [
        "--device=cpu", "--model=mae_vit_tiny_patch8", "--input_size=32", "--batch_size=4", "--epochs=3",
        "--warmup_epochs=1", f"--data_path={photos}", f"--output_dir={out}", f"--log_dir={out}", "--num_workers=0",
        "--loader=pillow", *more,
    ]  # fmt: skip


def parse(words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return recipe_of(parser.parse_args(words), Pretrain)


def run(photos, out, *more):
    pretrain(parse(flags(photos, out, *more)))
    return load_file(out / "checkpoint-2.pth")


def on_update(monkeypatch, act):
    """Each update of the weights becomes act(its number, from 1; the step; a function that makes it, its loss times a
    factor). Five batches make an epoch."""
    update, numbers = TrainingStep.update, count(1)

    def acted(step, loss, lr):
        return act(next(numbers), step, lambda factor=1: update(step, loss * factor, lr))

    monkeypatch.setattr(TrainingStep, "update", acted)
