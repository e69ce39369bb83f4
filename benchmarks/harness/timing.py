"""Side by side: every side in turn on the same fresh inputs, in one process; medians, and how sure they are."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import torch
from tqdm import tqdm

from benchmarks.harness.provenance import cpu_wait

FLUSH = 256 * 2**20  # bytes, more than any GPU's second-level cache
HEAD_START = 2_000_000  # cycles, about a millisecond


class Clock:
    """Seconds of a call, alone on the device; on CUDA by events and with a cold second-level cache.

    head_start: the GPU begins a call when the host has launched all of it, if that takes no millisecond: for what is
    shorter than its launch, which inside of a step hides behind the work before it.
    """

    def __init__(self, device: str, head_start: bool = False):
        self.device, self.head_start = device, head_start
        self.flush = torch.empty(FLUSH if device == "cuda" else 0, dtype=torch.uint8, device=device)

    def __call__(self, call: Callable[[], object]) -> float:
        if self.device != "cuda":
            start = time.perf_counter()
            call()
            return time.perf_counter() - start
        self.flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if self.head_start:
            torch.cuda._sleep(HEAD_START)
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


@dataclass(frozen=True)
class Turns:
    seconds: dict[str, list[float]]  # of each side, a number a round
    waiting: float | None  # share of that time in which tasks of this machine waited for a core


def take_turns(
    sides: dict[str, Callable], draw: Callable[[], tuple], rounds: int, clock: Clock, *,
    warm_up: int = 1, until: float = float("inf"), label: str | None = "",
    after_round: Callable[[dict[str, list[float]]], None] = lambda seconds: None,
) -> Turns:  # fmt: skip
    """Time all sides, a call each a round, after `warm_up` rounds that do not count.

    sides: {name: prepare}; prepare(*draw()) runs untimed and returns the call that is timed. A round begins only
    before `until` (time.monotonic); the first one always does. label: of the progress bar; None for none.
    after_round: called with the seconds so far, to keep them if the run is stopped.
    """
    seconds = {name: [] for name in sides}
    began, waited = time.perf_counter(), cpu_wait()
    with tqdm(total=(warm_up + rounds) * len(sides), unit=" calls", leave=False, disable=label is None) as bar:
        for turn in range(warm_up + rounds):
            if turn > warm_up and time.monotonic() > until:
                break
            if turn == warm_up:
                began, waited = time.perf_counter(), cpu_wait()
            inputs = draw()
            for name, prepare in sides.items():
                bar.set_description(f"{label} {name}".strip())
                taken = clock(prepare(*inputs))
                if turn >= warm_up:
                    seconds[name].append(taken)
                bar.update()
            if turn >= warm_up:
                after_round(seconds)
    passed = time.perf_counter() - began
    return Turns(seconds, None if waited is None else (cpu_wait() - waited) / passed)


def interval(values: list[float]) -> tuple[float, float]:
    """Between these two of the values the true median lies with 95 %; fewer than six values cannot tell: all of them.

    Order statistics: nothing is assumed of the distribution but that the rounds do not depend on each other.
    """
    ordered, n, k = sorted(values), len(values), 0
    while sum(comb(n, i) for i in range(k + 2)) / 2**n <= 0.025:
        k += 1
    return ordered[k], ordered[n - 1 - k]


def summary(seconds: list[float]) -> dict:
    """Median and quartiles."""
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return {"median_s": median, "q1_s": q1, "q3_s": q3}


def times_as_long(theirs: list[float], ours: list[float]) -> dict:
    """How many times as long as ours, round by round: the median and the interval that its noise leaves."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, high = interval(ratios)
    return {"x_ours": statistics.median(ratios), "x_ours_low": low, "x_ours_high": high}
