"""The error of predicted pixels over masked patches, by name: mse, l1, smooth_l1, bce.

All but bce are judged against normalised pixels and fused with the making of their targets. bce takes predictions as
logits and pixels as shares of the value range, 0 to 1, as they were before mean and std.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mae_fast import ops
from mae_fast.config import LOSSES


class PixelLoss(NamedTuple):
    """masked: (pred, imgs, ids, patch_size, mean, std, norm_pix) -> scalar, with the arguments of `ops.masked_mse`.

    each: (pred, target) -> the error of each number, in the same shape.
    """

    masked: Callable[..., Tensor]
    each: Callable[[Tensor, Tensor], Tensor]


def to_unit(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Normalised patches (..., P), a channel after another -> the same as shares of the value range, 0 to 1."""
    pixels = x.unflatten(-1, (-1, len(mean)))
    channels = [pixels[..., c] * std[c] + mean[c] for c in range(len(mean))]  # no tensor of constants to copy over
    return torch.stack(channels, dim=-1).flatten(-2).clamp(0, 1)


def from_unit(x: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """The inverse of to_unit, of numbers that are in 0 to 1."""
    pixels = x.unflatten(-1, (-1, len(mean)))
    return torch.stack([(pixels[..., c] - mean[c]) / std[c] for c in range(len(mean))], dim=-1).flatten(-2)


_bce_each = partial(F.binary_cross_entropy_with_logits, reduction="none")


def _masked_bce(pred, imgs, ids, patch_size, mean, std, norm_pix):
    dtype = torch.promote_types(imgs.dtype, torch.float32) if imgs.is_floating_point() else torch.float32
    target = to_unit(ops.gather_patches(imgs, ids, patch_size, mean, std, dtype), mean, std)
    if pred.shape[1] != ids.shape[1]:
        pred = pred.gather(1, ids.unsqueeze(-1).expand(-1, -1, pred.shape[2]))
    return F.binary_cross_entropy_with_logits(pred.to(dtype), target)


def _fused(op: str, **more) -> Callable[..., Tensor]:
    """The op as mae_fast.ops has it when it is called."""
    return lambda *args: getattr(ops, op)(*args, **more)


PIXEL_LOSSES = {
    "mse": PixelLoss(_fused("masked_mse"), lambda pred, target: (pred - target) ** 2),
    "l1": PixelLoss(_fused("masked_smooth_l1", beta=0.0), lambda pred, target: (pred - target).abs()),
    "smooth_l1": PixelLoss(_fused("masked_smooth_l1", beta=1.0), partial(F.smooth_l1_loss, reduction="none")),
    "bce": PixelLoss(_masked_bce, _bce_each),
}


def check_loss(loss: str, norm_pix_loss: bool) -> None:
    """ValueError for a loss that there is not, or not beside norm_pix_loss."""
    if loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}; got {loss!r}")
    if loss == "bce" and norm_pix_loss:
        raise ValueError(
            "norm_pix_loss: the targets of loss bce are pixels in 0..1, not normalised by patch; give one of the two"
        )
