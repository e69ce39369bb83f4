"""The cases of unshuffle, as mae_fast.parity.cases wants them."""

from itertools import product

import torch

from mae_fast.config import dtype_name
from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import Call, Inputs, counts, mask, meta, strided

ROWS = [
    dict(B=1, L=1, D=32, ratio=0.0),
    dict(B=9, L=1, D=48, ratio=1.0),
    dict(B=1, L=49, D=384, ratio=0.5),
    dict(B=3, L=30, D=512, ratio=0.75, pos="float32"),
    dict(B=67, L=4, D=48, ratio=0.5, strided=True),
    dict(B=1, L=16, D=768, ratio=0.99),
    dict(B=2, L=9, D=1280, ratio=0.75, strided=True, pos="float32"),
    dict(B=1, L=196, D=32, ratio=0.75),
]
EDGES = [
    dict(B=2, L=5, D=D, ratio=ratio, strided=strided)
    for D, ratio, strided in product((1, 2, 3, 7, 8, 15, 17, 31, 33, 65, 130), (0, 0.5, 1), (False, True))
]
SMALL = dict(B=3, L=6, D=8, ratio=0.5)


def make(shape, dtype, device):
    (L, kept), D = counts(shape), shape["D"]
    ids_restore = mask(shape, device)[1]
    pos_dtype = torch.float32 if shape.get("pos") == "float32" else dtype
    tokens = torch.randn(shape["B"], 1 + kept, D, device=device).to(dtype)
    tokens = strided(tokens) if shape.get("strided") else tokens
    mask_token = torch.randn(1, 1, D, device=device).to(pos_dtype)
    pos_embed = torch.randn(1, 1 + L, D, device=device).to(pos_dtype)
    args = tokens, mask_token, pos_embed, ids_restore
    return Inputs(args, (0, 1, 2), (*(x.double() for x in args[:3]), ids_restore))


def schemas(args):
    tokens, _, pos_embed, ids_restore = args
    grad = torch.randn(len(tokens), pos_embed.shape[1], tokens.shape[2])
    backward = grad, ids_restore, tokens.shape[1], torch.bfloat16, True, True
    return {"unshuffle": args, "unshuffle_backward": backward}


def least_bytes(shape, c, stream=4):
    """Count positions, and with them the result, as float32."""
    (L, kept), B, D = counts(shape), shape["B"], shape["D"]
    moved = B * (1 + kept) * D * c + B * L * 8 + B * (1 + L) * D * 4
    return moved + (2 + L) * D * 4, moved + D * 4


def calls(step: Stages, batch: int):
    """No call: forward unshuffles, but training_loss runs its decoder in shuffled order."""
    yield Call("", dict(B=batch, L=step.L, D=step.decoder.width, ratio=step.mask_ratio, pos="float32"), 0)


def launches():
    bf16, B, L, N = torch.bfloat16, 64, 196, 50
    restore = meta(B, L, dtype=torch.int64)
    for D, pos in product((512, 768), (torch.float32, bf16)):
        name = f"D={D} bfloat16 tokens, {dtype_name(pos)} positions"
        yield name, "unshuffle", (meta(B, N, D, dtype=bf16), meta(1, 1, D), meta(1, 1 + L, D, dtype=pos), restore)
        grad = meta(B, 1 + L, D, dtype=torch.promote_types(bf16, pos))
        yield name, "unshuffle_backward", (grad, restore, N, bf16, True, pos != bf16)
