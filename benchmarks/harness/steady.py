"""A loader in its steady state: batches in windows of time, after a warm-up, with the processor time they took."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks.harness.cpu_time import cpu_seconds


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
