"""Reconstructions as pictures: original, masked, predicted, predicted with the visible patches pasted in; as they are
and as they are drawn.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mae_fast.model import MaskedAutoencoderViT

GREY = 0.5  # of a removed patch
PERCENT = (0.02, 0.98)  # of the values of a band, stretched over black to white


@dataclass(frozen=True)
class Reconstruction:
    """Pictures (B, H, W, C), float in 0..1 over the value range, and the loss they were predicted with.

    removed: (B, H, W, C), 1 where the pixel was masked, else 0.
    """

    original: Tensor
    masked: Tensor
    predicted: Tensor
    pasted: Tensor
    removed: Tensor
    loss: float


@torch.inference_mode()
def reconstruct(
    model: MaskedAutoencoderViT, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
) -> Reconstruction:
    """Mask images, uint8 (B, H, W, C) or normalised float (B, C, H, W), and predict them back.

    A model trained with norm_pix_loss predicts patches of zero mean and unit variance; they are brought back with the
    mean and variance of the true patch, which a picture should say.
    """
    loss, pred, mask = model(imgs, mask_ratio, noise)
    original = model.pixels.unit(imgs)
    predicted = model.pixels.unit(model.unpatchify(model.to_pixels(pred.float(), model.patchify(imgs))))
    if model.pixels.as_bytes:
        predicted = predicted.clamp(0, 1)
    removed = model.unpatchify(mask.unsqueeze(-1).expand_as(pred))
    pictures = (
        original,
        original * (1 - removed) + GREY * removed,
        predicted,
        original * (1 - removed) + predicted * removed,
        removed,
    )
    return Reconstruction(*(picture.permute(0, 2, 3, 1).cpu() for picture in pictures), loss=loss.item())


def stretched(result: Reconstruction, bands: list[int] | None = None, percentiles: bool = False) -> Reconstruction:
    """The same as it is drawn: one band, or three as red, green and blue, in 0..1; bands, percentiles: of drawable."""
    shown = _places(result.original.shape[-1], bands)
    scale, removed = _black_and_white(result.original[..., shown], percentiles), result.removed[..., shown]
    original, predicted = (_between(x[..., shown], scale) for x in (result.original, result.predicted))
    masked = original * (1 - removed) + GREY * removed
    return Reconstruction(
        original, masked, predicted, original * (1 - removed) + predicted * removed, removed, result.loss
    )


def drawable(pictures: Tensor, bands: list[int] | None = None, percentiles: bool = False) -> Tensor:
    """Pictures (B, H, W, C), in 0..1 over the value range, as they are drawn: (B, H, W, 1 or 3), in 0..1.

    bands: numbers from 1 of one band, or of three as red, green and blue (default: all of one or three, else the first
    three, or the first of two). percentiles: black to white are the 2nd and the 98th of each picture's band, not the
    value range. Raises ValueError for bands that are not there.
    """
    original = pictures[..., _places(pictures.shape[-1], bands)]
    return _between(original, _black_and_white(original, percentiles))


def _places(channels: int, bands: list[int] | None) -> list[int]:
    if bands is None:
        bands = [1, 2, 3] if channels >= 3 else [1]
    if len(bands) not in (1, 3) or not all(1 <= band <= channels for band in bands):
        raise ValueError(f"bands: expected one or three numbers from 1 to {channels}, got {' '.join(map(str, bands))}")
    return [band - 1 for band in bands]


def _black_and_white(original: Tensor, percentiles: bool) -> tuple[Tensor, Tensor]:
    if not percentiles:
        return torch.zeros(1), torch.ones(1)
    low, high = original.float().flatten(1, 2).quantile(torch.tensor(PERCENT), dim=1)
    return low[:, None, None], high[:, None, None]


def _between(pictures: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    low, high = scale
    return ((pictures - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
