"""The cases of bias_gelu, as mae_fast.parity.cases wants them."""

from itertools import product

import torch

from mae_fast.config import dtype_name
from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import Call, Inputs, meta, strided

ROWS = [
    dict(B=1, D=1),
    dict(B=3, D=63),
    dict(B=257, D=48, bias="float32"),
    dict(B=70, D=130, strided=True, large=True),
]
EDGES = [dict(B=B, D=D, strided=B > 1) for B, D in product((1, 17), (1, 2, 7, 15, 17, 33, 66, 130))]
SMALL = dict(B=3, D=10)


def make(shape, dtype, device):
    x = torch.randn(shape["B"], shape.get("N", 2), shape["D"], device=device)
    x = (x * (30 if shape.get("large") else 2)).to(dtype)
    x = strided(x) if shape.get("strided") else x
    bias = torch.randn(shape["D"], device=device).to(torch.float32 if shape.get("bias") == "float32" else dtype)
    return Inputs((x, bias), (0, 1), (x.double(), bias.double()))


def schemas(args):
    x, bias = (x.detach() for x in args)
    return {"bias_gelu": args, "bias_gelu_backward": (torch.randn_like(x), x, bias)}


def least_bytes(shape, c, stream=4):
    numbers, bias = shape["B"] * shape.get("N", 2) * shape["D"], shape["D"] * 4
    return numbers * 2 * c + bias, numbers * 3 * c + 2 * bias


def calls(step: Stages, batch: int):
    for stage in step.blocks:
        yield Call(stage.name, dict(B=batch, N=stage.rows, D=stage.hidden, bias="float32"), stage.layers)


def launches():
    for (rows, D), dtype in product(((64 * 50, 3072), (64 * 197, 2048)), (torch.bfloat16, torch.float32)):
        x, bias, name = meta(rows, D, dtype=dtype), meta(D), f"D={D} {dtype_name(dtype)}"
        yield name, "bias_gelu", (x, bias)
        yield name, "bias_gelu_backward", (x, x, bias)
