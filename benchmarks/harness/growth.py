"""Whether what a process holds grows: samples of its memory, files and threads, and the verdict on them."""

import os
import resource
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

SLOPE, GROWTH = 1024, 0.05  # bytes a step, share: less of both is flat
SETTLED = 1 / 3  # of a run, which may grow: compiling, allocators and caches fill up


def sample(step: int, device: str) -> dict:
    """What this process holds now. OSError where there is no /proc (not Linux)."""
    rss = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    row = {"step": step, "rss_bytes": rss, "files": len(os.listdir("/proc/self/fd"))}
    row["threads"] = len(os.listdir("/proc/self/task"))
    if device == "cuda":
        row["cuda_bytes"] = torch.cuda.memory_reserved()
    return row


@dataclass(frozen=True)
class Growth:
    """Of one number over the last two thirds of a run."""

    name: str
    first: float  # mean of the first third of them
    last: float  # of the last third
    slope: float  # a step, by least squares

    @property
    def flat(self) -> bool:
        """Bytes may wander a little; files and threads come and go, and not one more may stay."""
        if not self.name.endswith("bytes"):
            return self.last < self.first + 1
        return self.slope < SLOPE and self.last < (1 + GROWTH) * self.first


def growths(samples: list[dict]) -> list[Growth]:
    """One for each number that was sampled. ValueError where samples are too few to tell."""
    settled = samples[round(SETTLED * len(samples)) :]
    if len(settled) < 10:
        raise ValueError(f"steps: {len(samples)} samples are too few to tell growth from noise; take more steps")
    third = len(settled) // 3
    found = []
    for name in samples[0].keys() & {"rss_bytes", "cuda_bytes", "files", "threads"}:
        values = [row[name] for row in settled]
        slope = _slope([row["step"] for row in settled], values)
        found.append(Growth(name, mean(values[:third]), mean(values[-third:]), slope))
    return sorted(found, key=lambda growth: growth.name, reverse=True)


def _slope(xs: list[float], ys: list[float]) -> float:
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def shown(growth: Growth) -> dict:
    """A line of the table."""
    what = {"rss_bytes": "resident memory", "cuda_bytes": "CUDA memory", "files": "open files"}
    row = {"what": what.get(growth.name, growth.name), "verdict": "flat" if growth.flat else "GROWS"}
    if not growth.name.endswith("bytes"):
        return row | {"first": f"{growth.first:.1f}", "last": f"{growth.last:.1f}", "slope": f"{growth.slope:+.1g}"}
    first, last = (f"{size / 2**20:.1f} MiB" for size in (growth.first, growth.last))
    return row | {"first": first, "last": last, "slope": f"{growth.slope:+.0f} bytes"}
