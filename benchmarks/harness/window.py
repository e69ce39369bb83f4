"""A window of time of a training run: stands for the run's loader and its report, and takes the time."""

import time
from collections.abc import Iterator

import torch

from benchmarks.harness.cpu_time import cpu_seconds
from mae_fast.pixels import RGB
from mae_fast.train.loop import WINDOW, train_one_epoch
from mae_fast.train.run import Run
from mae_fast.train.run_state import Position

SKIPPED = 4  # steps at least: more than the batches that a loader has ready


class Window:
    """Hands batches to the training loop until `length` seconds are over.

    Stamps are taken where the loop reads its losses, every `every` steps, so the device has done all that was asked of
    it before. The first is taken after SKIPPED steps: batches made ahead would flatter the loader.
    """

    backend, labelled, folder, pixels = "a window", False, None, RGB

    def __init__(self, batches: Iterator, every: int, length: float):
        self.batches, self.every, self.length = batches, every, length
        self.bad_images: dict[str, str] = {}
        self.done, self.stamps = 0, []

    def __len__(self) -> int:
        return 2**40  # the epoch ends by time

    def first_place(self, batch: int) -> int:
        return batch  # masks that differ

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[torch.Tensor, None]]:
        for number, (imgs, _) in enumerate(self.batches):
            over = len(self.stamps) > 1 and time.perf_counter() - self.stamps[0][0] >= self.length
            if over and number % self.every == 0:
                return
            yield imgs, None

    def begin_epoch(self) -> None:
        """Nothing to do: the time that counts begins later."""

    def steps(self, epoch: int, records: list, images: int) -> None:
        self.done += len(records)
        if self.done >= SKIPPED:
            self.stamps.append((time.perf_counter(), cpu_seconds(), self.done))

    def result(self) -> tuple[float, float]:
        """(seconds a step, cores used)."""
        (began, worked, first), (ended, done, last) = self.stamps[0], self.stamps[-1]
        return (ended - began) / (last - first), (done - worked) / (ended - began)


def take(run: Run, batches: Iterator, length: float) -> tuple[float, float]:
    """Train on these batches, which never end, for so many seconds. -> (seconds a step, cores used)."""
    window = Window(batches, WINDOW[run.resolved.device.type], length)
    run.loader, run.report, run.position = window, window, Position()
    train_one_epoch(run)
    return window.result()
