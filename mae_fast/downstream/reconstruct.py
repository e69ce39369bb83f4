"""Reconstructions as pictures: original, masked, predicted, predicted with the visible patches pasted in."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mae_fast.data.sources.folder import EXTENSIONS
from mae_fast.data.sources.image_file import decode_rgb, explain, read_header
from mae_fast.files.atomic import write_atomic
from mae_fast.model import MaskedAutoencoderViT

GREY = 0.5  # of a removed patch


@dataclass(frozen=True)
class Reconstruction:
    """Pictures (B, H, W, C), float in 0..1, and the loss they were predicted with."""

    original: Tensor
    masked: Tensor
    predicted: Tensor
    pasted: Tensor
    loss: float


@torch.inference_mode()
def reconstruct(
    model: MaskedAutoencoderViT, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
) -> Reconstruction:
    """Mask uint8 images (B, H, W, C) and predict them back.

    A model trained with norm_pix_loss predicts patches of zero mean and unit variance; they are brought back with the
    mean and variance of the true patch, which a picture should say.
    """
    loss, pred, mask = model(imgs, mask_ratio, noise)
    mean, std = (torch.tensor(v, device=imgs.device).view(1, -1, 1, 1) for v in (model.mean, model.std))
    original = imgs.permute(0, 3, 1, 2) / 255
    target = model.patchify((original - mean) / std)
    if model.norm_pix_loss:
        pred = pred * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
    predicted = (model.unpatchify(pred.float()) * std + mean).clamp(0, 1)
    removed = model.unpatchify(mask.unsqueeze(-1).expand_as(pred))
    pictures = (
        original,
        original * (1 - removed) + GREY * removed,
        predicted,
        original * (1 - removed) + predicted * removed,
    )
    return Reconstruction(*(picture.permute(0, 2, 3, 1).cpu() for picture in pictures), loss=loss.item())


def list_images(path: str | Path) -> list[Path]:
    """The pictures of a folder and those below it, sorted, or one file. ValueError where there is none."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    files = sorted(f for f in path.rglob("*") if f.suffix.lower() in EXTENSIONS) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"images: no pictures in {path} (looked for {', '.join(EXTENSIONS)})")
    return files


def load_images(path: str | Path, size: tuple[int, int], channels: int, limit: int) -> tuple[list[str], Tensor]:
    """The first `limit` pictures of a folder, or one file, cut to (height, width): names and uint8 (B, H, W, C)."""
    files = list_images(path)
    if channels not in (1, 3):
        raise ValueError(f"model: one of {channels} channels cannot be shown as pictures")
    arrays = []
    for file in files[:limit]:
        header = read_header(str(file))  # finds the missing end of a file that would decode to grey
        if header.fault:
            raise ValueError(f"{file}: {header.fault}")
        try:
            image = decode_rgb(str(file)).convert("RGB" if channels == 3 else "L")
        except Exception as error:  # a damaged file may raise anything at all inside Pillow
            raise ValueError(f"{file}: {explain(error)}") from None
        fitted = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BICUBIC)
        arrays.append(np.array(fitted).reshape(*size, channels))
    return [file.stem for file in files[:limit]], torch.from_numpy(np.stack(arrays))


def draw(names: list[str], result: Reconstruction, out: str | Path, note: str) -> None:
    """Write a PNG: a row an image, the four pictures as columns, the note underneath."""
    from matplotlib.figure import Figure

    columns = ("original", "masked", "reconstruction", "reconstruction + visible")
    pictures = (result.original, result.masked, result.predicted, result.pasted)
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * len(names) + 0.5), layout="constrained")
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for row, name in enumerate(names):
        for axis, title, picture in zip(axes[row], columns, pictures, strict=True):
            axis.imshow(picture[row].squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title=title if row == 0 else "")
        axes[row][0].set_ylabel(name, fontsize=8)
    figure.supxlabel(note, fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))
