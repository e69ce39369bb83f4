"""A loader in its steady state: headers known, then batches in windows of time, with the processor time they took."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.harness.cpu_time import cpu_seconds

HEADERS = 2**17  # at most


def know_headers(loader) -> None:
    """Bring a loader to where it is after its first epoch: it knows the sizes of all pictures.

    Pictures of several names are read once; of a very large folder only the first pictures of epoch 0 are.
    """
    planner, known = loader._engine.planner, {}
    for index in planner.sampler.order(0)[:HEADERS].tolist():
        if planner.source.holds == "path":
            status = os.stat(planner.source.encoded(index))
            picture = status.st_dev, status.st_ino
        else:
            picture = planner.source.name(index)
        if picture not in known:
            known[picture] = planner._header(index)
        planner._learn(index, known[picture])


@dataclass(frozen=True)
class Steady:
    seconds: list[float]  # per batch, of each window
    cores: float  # processor seconds per second, of the median window

    @classmethod
    def of(cls, batches: Iterator, warm_up: int, windows: int, length: float, until: float = float("inf")) -> "Steady":
        """Take `warm_up` batches, then all that come in `windows` windows of `length` seconds, at least one in each.

        batches: never ends. A window begins only before `until` (time.monotonic); the first one always does. Batches
        made ahead fill up in the warm-up and stay full, so they neither help nor hurt.
        """
        for _ in range(warm_up):
            next(batches)
        seconds, cores = [], []
        for number in range(windows):
            if number and time.monotonic() > until:
                break
            began, worked, count = time.perf_counter(), cpu_seconds(), 0
            while not count or time.perf_counter() - began < length:
                next(batches)
                count += 1
            taken = time.perf_counter() - began
            seconds.append(taken / count)
            cores.append((cpu_seconds() - worked) / taken)
        return cls(seconds, median(cores))
