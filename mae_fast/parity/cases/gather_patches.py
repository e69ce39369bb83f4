"""The cases of gather_patches, as mae_fast.parity.cases wants them."""

from itertools import product

import torch

from mae_fast.config import IMAGENET_MEAN, IMAGENET_STD, dtype_name
from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import (
    IMAGES,
    LAYOUTS,
    MEAN,
    STD,
    Call,
    Inputs,
    counts,
    images,
    mask,
    meta,
    patches,
    pixel_bytes,
    rgb,
)  # fmt: skip

ROWS = [
    patches(1, 3, 16, (14, 14), 0.75, "uint8"),
    patches(3, 3, 16, (2, 3), 0.5, "float"),
    patches(3, 4, 14, (9, 7), 0.99, "uint8 window"),
    patches(2, 1, 8, (9, 7), 0.75, "float window"),
    patches(3, 4, 4, (7, 7), 0.0, "channels_last"),
    patches(1, 3, 2, (32, 32), 0.99, "every other pixel"),
    patches(5, 1, 2, (1, 1), 0.0, "uint8"),
    patches(3, 3, 14, (16, 16), 0.99, "float32"),
    patches(2, 3, 8, (3, 3), 1.0, "float"),
]
EDGES = [patches(2, C, p, (2, 3), 0.5, x) for C, p, x in product((1, 3, 4), (1, 2, 3, 5, 7, 11, 17), LAYOUTS)]
SMALL = patches(3, 3, 2, (2, 3), 0.5, "float")


def make(shape, dtype, device):
    _, kept = counts(shape)
    imgs, exact = images(shape, dtype, device)
    ids = mask(shape, device)[0][:, :kept]
    rest = ids, shape["p"], MEAN[shape["C"]], STD[shape["C"]]
    grads = (0,) if imgs.is_floating_point() else ()
    return Inputs((imgs, *rest, dtype), grads, (exact, *rest, torch.float64))


def schemas(args):
    imgs, ids, p, *_ = args
    grad = torch.randn(*ids.shape, p * p * imgs.shape[1])
    return {"gather_patches": args, "gather_patches_backward": (grad, ids, p, list(imgs.shape), torch.float32)}


def least_bytes(shape, c, stream=4):
    B, P, (L, kept), image = shape["B"], shape["p"] ** 2 * shape["C"], counts(shape), pixel_bytes(shape, c)
    return B * kept * (P * image + P * c + 8), B * kept * (P * c + 8) + B * L * P * image


def calls(step: Stages, batch: int):
    yield Call("", rgb(step, batch), 1)


def launches():
    for p, L in ((16, 196), (14, 256)):
        B, ids = 64, meta(64, L // 4, dtype=torch.int64)
        for (layout, imgs), dtype in product(IMAGES.items(), (torch.bfloat16, torch.float32)):
            args = imgs, ids, p, IMAGENET_MEAN, IMAGENET_STD, dtype
            yield f"p={p} {layout}, {dtype_name(dtype)}", "gather_patches", args
        grad = meta(B, L // 4, p * p * 3, dtype=torch.bfloat16)
        yield f"p={p} bfloat16", "gather_patches_backward", (grad, ids, p, (B, 3, 224, 224), torch.float32)
