"""Loaders that hang, images that are broken, losses that are no numbers."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import torch

from benchmarks.faults.scene import Outcome, Scene, sentence
from benchmarks.faults.signals import newest


def stalled(scene: Scene) -> Outcome:
    """Both worker processes of the loader stop."""
    out = scene.new()
    run = scene.start(out, "--num_workers=2", "--loader_timeout=10")
    run.until(lambda: newest(out) > 0, "a checkpoint")
    began = time.monotonic()
    lists = [path.read_text() for path in Path(f"/proc/{run.pid}/task").glob("*/children")]
    workers = [int(worker) for worker in " ".join(lists).split()]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        line = sentence(run.ended(1), "loader: pillow gave no batch for 10 seconds, loader_timeout. To go on: ")
        seconds = time.monotonic() - began
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
    return Outcome(line, scene.goes_on(out), seconds)


def broken_images(scene: Scene) -> Outcome:
    """One of twenty, cut off in the middle."""
    images = scene.new()
    shutil.copytree(scene.images, images)
    victim = images / "train" / "one" / "07.jpg"
    os.truncate(victim, victim.stat().st_size // 2)
    said = scene.start(scene.new(), f"--data_path={images}").ended(0)
    return Outcome(sentence(said, "skipped 1 bad images so far, the last one "))


def one_loss_is_no_number(scene: Scene) -> Outcome:
    said = scene.start(scene.new(), act=spoil_one).ended(0)
    return Outcome(sentence(said, "1 steps skipped"))


def no_loss_is_a_number(scene: Scene) -> Outcome:
    said = scene.start(scene.new(), act=spoil_all).ended(1)
    return Outcome(sentence(said, "5 steps in a row had no finite loss"))


def spoil_one() -> None:
    _spoil({8})


def spoil_all() -> None:
    _spoil(set(range(8, 10**6)))


def _spoil(steps: set[int]) -> None:
    """In the process of a run: the losses of these steps become NaN."""
    from mae_fast.train.losses import MAELoss

    forward, made = MAELoss.forward, 0

    def spoiled(self, imgs, labels=None):
        nonlocal made
        made += 1
        loss = forward(self, imgs, labels)
        return loss * (torch.nan if made in steps else 1)

    MAELoss.forward = spoiled
