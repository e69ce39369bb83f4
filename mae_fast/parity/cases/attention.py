"""The cases of attention, as mae_fast.parity.cases wants them."""

from itertools import product

import torch

from mae_fast.config import dtype_name
from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import Call, Inputs, meta, offset, strided

# One token, odd numbers of tokens, more than a block of queries, head widths that fill no vector or are odd.
SHAPES = [
    dict(B=1, N=1, H=1, D=16),
    dict(B=1, N=2, H=2, D=6),
    dict(B=2, N=50, H=3, D=64),
    dict(B=1, N=65, H=2, D=128, strided=True),
    dict(B=1, N=197, H=2, D=32),
    dict(B=3, N=100, H=2, D=32, large=True),
    dict(B=2, N=257, H=1, D=80, large=True),
    dict(B=1, N=129, H=3, D=17),
    dict(B=1, N=1024, H=1, D=24),
]
ROWS = [shape | {"bias": True} for shape in SHAPES]
# Every third pair: oneDNN compiles its kernels anew for each shape.
EDGES = [
    dict(B=2, N=N, H=1 + D % 2, D=D, offset=N % 2, bias=True)
    for N, D in [*product((1, 2, 3, 15, 17, 63, 66, 130), (1, 2, 3, 8, 17, 18, 33, 130))][::3]
]
SMALL = dict(B=3, N=5, H=2, D=8, bias=True)


def make(shape, dtype, device):
    """Draw qkv. large: scores far apart, so that probabilities underflow and the largest score is far from zero.

    bias: a float32 bias gets its gradient. Which numbers are in qkv on its account makes no difference to anything.
    """
    B, N, H, D = (shape[key] for key in "BNHD")
    qkv = (torch.randn(B, N, 3, H, D, device=device) * (8 if shape.get("large") else 1.5)).to(dtype)
    qkv = strided(qkv) if shape.get("strided") else qkv
    qkv = offset(qkv) if shape.get("offset") else qkv
    if not shape.get("bias"):
        return Inputs((qkv,), (0,), (qkv.double(),))
    bias = torch.randn(3 * H * D, device=device)
    return Inputs((qkv, bias), (0, 1), (qkv.double(), bias.double()))


def schemas(args):
    qkv = args[0].detach()
    grad = torch.randn(*qkv.shape[:2], qkv.shape[3] * qkv.shape[4])
    return {"attention": args, "attention_backward": (grad, qkv, *torch.ops.mae_fast.attention(qkv))}


def least_bytes(shape, c, stream=4):
    """Count the logsumexp too, one float32 number a row and head."""
    B, N, H, D = (shape[key] for key in "BNHD")
    return B * N * H * (4 * D * c + 4), B * N * H * (8 * D * c + 4)


def calls(step: Stages, batch: int):
    for stage in step.blocks:
        yield Call(stage.name, dict(B=batch, N=stage.tokens, H=stage.heads, D=stage.width // stage.heads), stage.layers)


def launches():
    B, H, bf16, fp16, fp32 = 64, 16, torch.bfloat16, torch.float16, torch.float32
    heads = (50, 64), (50, 80), (65, 64), (65, 80), (197, 32), (197, 64), (257, 32), (257, 80)
    more = (50, 64, fp16), (50, 64, fp32), (197, 32, fp32), (257, 80, fp32)
    for N, Dh, dtype in (*((N, Dh, bf16) for N, Dh in heads), *more):
        name = f"N={N} Dh={Dh} {dtype_name(dtype)}"
        qkv, out, lse = meta(B, N, 3, H, Dh, dtype=dtype), meta(B, N, H * Dh, dtype=dtype), meta(B, H, N)
        yield name, "attention", (qkv,)
        yield name, "attention_backward", (out, qkv, out, lse)
