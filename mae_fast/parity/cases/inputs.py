"""What the ops' cases are made of: a row, its tensors, images and layouts."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mae_fast import reference
from mae_fast.model.stages import Stages

MEAN = {1: (0.5,), 3: reference.IMAGENET_MEAN, 4: (0.1, 0.3, 0.5, 0.7)}  # by channels
STD = {1: (0.2,), 3: reference.IMAGENET_STD, 4: (0.2, 0.25, 0.3, 0.35)}
LAYOUTS = "uint8", "uint8 window", "float", "float window", "channels_last", "every other pixel"


class Inputs(NamedTuple):
    args: tuple  # of the op
    grads: tuple  # which of them get a gradient
    exact: tuple  # the same arguments in float64, images normalised in float64


class Call(NamedTuple):
    """A call of an op in a training step: where, with which shape, how many times."""

    where: str
    shape: dict
    times: int


def patches(B: int, C: int, p: int, grid: tuple[int, int], ratio: float, layout: str, **more) -> dict:
    """The shape of a row about images: B of them, C channels, patches of p x p in a grid, a share masked."""
    return dict(B=B, C=C, p=p, grid=grid, ratio=ratio, layout=layout, **more)


def counts(shape: dict) -> tuple[int, int]:
    """-> patches of an image, those kept."""
    L = shape["L"] if "L" in shape else shape["grid"][0] * shape["grid"][1]
    return L, int(L * (1 - shape["ratio"]))


def pixel_bytes(shape: dict, c: int) -> int:
    return 1 if shape["layout"].startswith("uint8") else c


def images(shape: dict, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """-> images in the row's layout, and the same normalised in float64 as (B, C, H, W)."""
    B, C, p, layout = shape["B"], shape["C"], shape["p"], shape["layout"]
    H, W = shape["grid"][0] * p, shape["grid"][1] * p
    if layout.startswith("uint8"):
        x = torch.randint(0, 256, (B, H + 2, W + 5, C), dtype=torch.uint8, device=device)
        x = x[:, 1:-1, 3:-2] if "window" in layout else x[:, :H, :W].contiguous()
        mean, std = (torch.tensor(v[C], dtype=torch.float64, device=device) for v in (MEAN, STD))
        return x, ((x.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    dtype = torch.float32 if layout == "float32" else dtype
    x = torch.randn(B, C, 2 * H, 2 * W, device=device).to(dtype)
    if layout == "every other pixel":
        x = x[:, :, ::2, 1::2]
    elif layout == "float window":
        x = x[:, :, 1 : H + 1, 3 : W + 3]
    else:
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        x = x[:, :, :H, :W].contiguous(memory_format=memory_format)
    return x, x.double()


def mask(shape: dict, device: str) -> tuple[Tensor, Tensor]:
    """-> ids_shuffle, ids_restore (B, L) of a random mask."""
    L, kept = counts(shape)
    return reference.random_masking(torch.rand(shape["B"], L, device=device), kept)[:2]


def strided(x: Tensor) -> Tensor:
    """The same numbers in a tensor with an offset and gaps."""
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def offset(x: Tensor) -> Tensor:
    """The same numbers, contiguous, one element after an aligned address."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of no memory, for kernels that are compiled and not run."""
    return torch.empty(shape, dtype=dtype, device="meta")


IMAGES = {  # of the shipped models, for kernels that are compiled and not run
    "uint8 NHWC": meta(64, 224, 224, 3, dtype=torch.uint8),
    "float32 NCHW": meta(64, 3, 224, 224),
    "float32 channels_last": meta(64, 224, 224, 3).permute(0, 3, 1, 2),
}


def rgb(step: Stages, batch: int) -> dict:
    """The shape of a row about the uint8 images of a training step, which are square."""
    side = math.isqrt(step.L)
    return patches(batch, 3, math.isqrt(step.P // 3), (side, side), step.mask_ratio, "uint8")
