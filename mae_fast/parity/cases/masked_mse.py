"""The cases of masked_mse, as mae_fast.parity.cases wants them."""

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
    patches(1, 3, 16, (4, 4), 0.75, "uint8", norm_pix=True),
    patches(3, 3, 16, (2, 3), 0.5, "float32", norm_pix=True, all_rows=True),
    patches(3, 4, 14, (3, 2), 0.5, "uint8 window", norm_pix=True, all_rows=True),
    patches(1, 1, 8, (9, 7), 0.75, "float window", norm_pix=False),
    patches(3, 4, 4, (7, 7), 0.99, "channels_last", norm_pix=True),
    patches(1, 3, 2, (7, 7), 0.75, "every other pixel", norm_pix=False, all_rows=True),
    patches(19, 1, 2, (1, 1), 1.0, "uint8", norm_pix=True),
    patches(2, 3, 16, (3, 3), 0.5, "float", norm_pix=True, loss_scale=2.0**16),
    patches(1, 3, 32, (2, 2), 0.5, "uint8", norm_pix=True),
]
EDGES = [
    patches(6, C, p, (2, 3), 0.5, x, norm_pix=C * p > 1, all_rows=p % 2 == 0)
    for C, p, x in product((1, 3, 4), (1, 2, 3, 5, 7, 11), LAYOUTS)
]
SMALL = patches(3, 3, 2, (2, 3), 0.5, "float", norm_pix=True)


def make(shape, dtype, device):
    """Draw images and predictions; pred is a window of a larger tensor."""
    L, kept = counts(shape)
    imgs, exact = images(shape, dtype, device)
    ids = mask(shape, device)[0][:, kept:]
    rows, P = L if shape.get("all_rows") else L - kept, shape["p"] ** 2 * shape["C"]
    pred = torch.randn(shape["B"], rows + 1, P, device=device).to(dtype)[:, 1:]
    rest = ids, shape["p"], MEAN[shape["C"]], STD[shape["C"]], shape["norm_pix"]
    return Inputs((pred, imgs, *rest), (0,), (pred.double(), exact, *rest))


def schemas(args):
    pred, _, ids, *_ = args
    residual = torch.randn_like(pred).detach()
    return {"masked_mse": (*args, True), "masked_mse_backward": (residual, ids, torch.tensor(3.0), 6)}


def least_bytes(shape, c, stream=4):
    P, (L, kept) = shape["p"] ** 2 * shape["C"], counts(shape)
    masked = shape["B"] * (L - kept)
    return masked * (P * pixel_bytes(shape, c) + 2 * P * c + 8), masked * 2 * P * c


def calls(step: Stages, batch: int):
    yield Call("", dict(rgb(step, batch), norm_pix=True), 1)


def launches():
    bf16, B = torch.bfloat16, 64
    for p, L in ((16, 196), (14, 256)):
        masked, P = L - L // 4, p * p * 3
        ids = meta(B, masked, dtype=torch.int64)
        for (layout, imgs), dtype in product(IMAGES.items(), (bf16, torch.float32)):
            pred = meta(B, masked, P, dtype=dtype)
            args = pred, imgs, ids, p, IMAGENET_MEAN, IMAGENET_STD, True, True
            yield f"p={p} {layout}, {dtype_name(dtype)}", "masked_mse", args
        for rows in (masked, L):
            args = meta(B, masked, P, dtype=bf16), ids, meta(), rows
            yield f"p={p} bfloat16, {rows} rows", "masked_mse_backward", args
