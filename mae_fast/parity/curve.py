"""Two loss curves held together: of two log files, or of the fast path and the plain reference trained side by side."""

import json
import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from tqdm import tqdm

from mae_fast import reference
from mae_fast.config import Preset
from mae_fast.data import make_loader, open_source
from mae_fast.files.atomic import write_atomic
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.parity.model import MASK_RATIO, autocast
from mae_fast.recipe import Schedule
from mae_fast.train.optim import lr_at, make_optimizer, set_lr

RELATIVE, ABSOLUTE = 0.05, 2e-4  # what passes, unless asked to be stricter
WARMUP, LR = 0.2, 1e-3  # share of the steps; a rate high enough for the curve to fall


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


def train_both(
    preset: Preset, img_size: int, steps: int, batch: int, dtype: torch.dtype, device: str, compiled: bool,
    images: str | None = None,
) -> dict[str, list[float]]:  # fmt: skip
    """The losses of the float32 reference and of the fast path: same images, masks, weights and optimizer.

    images: a folder of pictures; without one, smooth random pictures.
    """
    kwargs = preset.kwargs() | {"img_size": img_size, "norm_pix_loss": True}
    torch.manual_seed(0)
    plain, fast = reference.MaskedAutoencoderViT(**kwargs), MaskedAutoencoderViT(**kwargs)
    fast.load_state_dict(plain.state_dict())
    plain, fast = plain.to(device), fast.to(device)
    losses_of = {"plain": plain.training_loss, "fast": fast.training_loss}
    if compiled:
        losses_of["fast"] = torch.compile(fast.training_loss, dynamic=False)
    optimizers = {"plain": make_optimizer(plain, "adamw", LR, 0.05), "fast": make_optimizer(fast, "adamw", LR, 0.05)}
    dtypes = {"plain": torch.float32, "fast": dtype}
    schedule = Schedule(lr=LR, warmup_epochs=WARMUP * steps, epochs=steps)  # a step for an epoch
    curves = {name: [] for name in losses_of}
    pictures = _photographs(images, batch, img_size, device) if images else _smooth(batch, img_size, device)
    with tqdm(total=steps, unit=" steps", leave=False) as bar:
        for step, imgs in enumerate(islice(pictures, steps)):
            noise = torch.rand(batch, fast.patch_embed.num_patches, device=device)
            for name, optimizer in optimizers.items():
                set_lr(optimizer, lr_at(step, schedule))
                with autocast(imgs.device, dtypes[name]):
                    loss = losses_of[name](imgs, MASK_RATIO, noise)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                curves[name].append(loss.item())
            bar.update()
    return curves


def _photographs(folder: str, batch: int, img_size: int, device: str) -> Iterator[Tensor]:
    loader = make_loader(open_source(folder), batch, img_size, seed=0, device=device)
    for epoch in count():
        for imgs, _ in loader.epoch(epoch):
            yield imgs


def _smooth(batch: int, img_size: int, device: str) -> Iterator[Tensor]:
    """Images in which neighbouring patches are alike, so that there is something to learn."""
    while True:
        coarse = torch.randn(batch, 3, 6, 6, device=device)
        yield torch.nn.functional.interpolate(coarse, (img_size, img_size), mode="bicubic")


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
