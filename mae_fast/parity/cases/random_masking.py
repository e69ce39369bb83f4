"""The cases of random_masking, as mae_fast.parity.cases wants them."""

import torch

from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import Call, Inputs, counts, meta, strided

EXACT = True  # ids and masks have to be equal
ROWS = [
    dict(B=1, L=1, ratio=0.0),
    dict(B=3, L=49, ratio=0.5),
    dict(B=2, L=63, ratio=1.0),
    dict(B=5, L=196, ratio=0.75, strided=True),
    dict(B=1, L=256, ratio=0.99),
    dict(B=1, L=1024, ratio=0.75),
]
EDGES = [dict(B=2, L=L, ratio=0.5) for L in (1, 2, 3, 15, 16, 17, 31, 33, 63, 65, 127, 1023, 4097)]
SMALL = dict(B=3, L=6, ratio=0.5)


def make(shape, dtype, device):
    """Draw noise of few distinct values, so that ties matter, with both zeros."""
    L, kept = counts(shape)
    noise = torch.rand(shape["B"], L, device=device).mul(L / 2).floor().sub(1).mul(-0.5).to(dtype)
    noise = strided(noise) if shape.get("strided") else noise
    return Inputs((noise, kept), (), (noise.double(), kept))


def schemas(args):
    return {"random_masking": args}


def least_bytes(shape, c, stream=4):
    return shape["B"] * shape["L"] * (4 + 2 * 8 + 4), 0


def calls(step: Stages, batch: int):
    yield Call("", dict(B=batch, L=step.L, ratio=step.mask_ratio), 1)


def launches():
    for L in (196, 256, 4096):
        yield f"L={L}", "random_masking", (meta(64, L), L // 4)
