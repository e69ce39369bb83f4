"""Two loss curves held together: of two log files, or of two sides that were trained together."""

import json
import math
import textwrap
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from mae_fast.files.atomic import write_atomic

RELATIVE, ABSOLUTE = 0.05, 2e-4  # what passes, unless asked to be stricter
OF_AUTOCAST = 1.5  # times plain autocast's difference from float32: what passes over several seeds


@dataclass(frozen=True)
class Difference:
    """How far curve b is from curve a, point by point. It passes if either mean is within its bound."""

    relative: float  # mean of |b - a| / |a|
    absolute: float  # mean of |b - a|
    points: int
    allowed_relative: float
    allowed_absolute: float

    @property
    def holds(self) -> bool:
        return self.relative <= self.allowed_relative or self.absolute <= self.allowed_absolute  # never of NaN

    def __str__(self) -> str:
        return (
            f"mean relative difference {self.relative:.2e} (allowed {self.allowed_relative:g}), mean absolute "
            f"{self.absolute:.2e} (or {self.allowed_absolute:g}), {self.points} points: "
            f"{'holds' if self.holds else 'FAILS'}"
        )


def compare(a: list[float], b: list[float], relative: float = RELATIVE, absolute: float = ABSOLUTE) -> Difference:
    """Both curves at the same steps. A loss that is not finite, in either, makes it fail."""
    if not a or len(a) != len(b):
        raise ValueError(f"curves: expected as many points in both, at least one; got {len(a)} and {len(b)}")
    off = [abs(y - x) for x, y in zip(a, b, strict=True)]
    if not all(map(math.isfinite, off)):
        return Difference(math.nan, math.nan, len(a), relative, absolute)
    shares = [d / abs(x) if x else (math.inf if d else 0.0) for x, d in zip(a, off, strict=True)]
    return Difference(mean(shares), mean(off), len(a), relative, absolute)


def read_losses(path: str | Path) -> list[float]:
    """The losses of a log: JSON lines with train_loss or loss (ours, official), or one number a line.

    ValueError names the file and the line that is neither.
    """
    losses = []
    for number, line in enumerate(Path(path).read_text().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if isinstance(entry, dict):
                entry = entry["train_loss"] if "train_loss" in entry else entry["loss"]
            losses.append(float(entry))
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number}: expected JSON with train_loss or loss, or a number; got {line.strip()[:60]!r}"
            ) from None
    if not losses:
        raise ValueError(f"{path}: no losses in it")
    return losses


def compare_logs(a: str | Path, b: str | Path, relative: float, absolute: float) -> tuple[Difference, dict]:
    """-> (difference, {file: losses}). The longer log is cut to the length of the shorter."""
    curves = {str(a): read_losses(a), str(b): read_losses(b)}
    if len(curves) == 1:
        raise ValueError(f"{a}: compared with itself; give two files")
    length = min(map(len, curves.values()))
    curves = {name: losses[:length] for name, losses in curves.items()}
    return compare(*curves.values(), relative, absolute), curves


def over_seeds(runs: list[dict[str, list[float]]]) -> tuple[float, float]:
    """Mean relative difference from "plain" of "fast" and of "autocast", over the curves of several seeds."""
    return tuple(mean(compare(run["plain"], run[side]).relative for run in runs) for side in ("fast", "autocast"))


def draw(curves: dict[str, list[float]], title: str, file: str | Path) -> None:
    """Draw both curves, and below them their difference, as PNG or SVG by the file's name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    (name_a, a), (name_b, b) = curves.items()
    above.plot(a, color="tab:gray", linewidth=3, label=name_a)
    above.plot(b, color="tab:blue", linewidth=1, label=name_b)
    above.set(ylabel="loss")
    figure.suptitle(textwrap.fill(title, 90), fontsize="small")
    above.legend()
    below.plot([(y - x) / abs(x) if x else math.nan for x, y in zip(a, b, strict=True)], color="tab:red", linewidth=1)
    below.set(xlabel="point", ylabel="relative difference")
    kind = Path(file).suffix.lstrip(".") or "png"
    write_atomic(file, lambda opened: figure.savefig(opened, format=kind, dpi=120))
