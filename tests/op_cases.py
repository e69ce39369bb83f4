"""The shared table of op cases: one row, and the parity tests (and benchmarks) of every implementation pick it up.

A row is (op, shape). `make` draws fresh inputs for it, `oracle` and `plain` are the reference in float64 and in the
inputs' own type, `implementation` chooses who answers `mae_fast.ops` on the CPU.
"""

import contextlib
from typing import NamedTuple

import torch

from mae_fast import ops, reference


class Case(NamedTuple):
    op: str
    shape: dict

    def __str__(self):
        return self.op + "-" + "-".join(f"{k}={v}" for k, v in self.shape.items())


def _patches(B, C, p, grid, ratio, layout, **more):
    return dict(B=B, C=C, p=p, grid=grid, ratio=ratio, layout=layout, **more)


# Odd batches; channels 1, 3, 4; patches that fill no block; grids 1 x 1 to 32 x 32 and 9 x 7; nothing, half, three
# quarters and nearly all masked; images with strides. The largest run few rows: the interpreter takes 5 ms a program.
CASES = [
    Case("random_masking", dict(B=1, L=1, ratio=0.0)),
    Case("random_masking", dict(B=3, L=49, ratio=0.5)),
    Case("random_masking", dict(B=2, L=63, ratio=1.0)),
    Case("random_masking", dict(B=5, L=196, ratio=0.75, strided=True)),
    Case("random_masking", dict(B=1, L=256, ratio=0.99)),
    Case("random_masking", dict(B=1, L=1024, ratio=0.75)),
    Case("gather_patches", _patches(1, 3, 16, (14, 14), 0.75, "uint8")),
    Case("gather_patches", _patches(3, 3, 16, (2, 3), 0.5, "float")),
    Case("gather_patches", _patches(3, 4, 14, (9, 7), 0.99, "uint8 window")),
    Case("gather_patches", _patches(2, 1, 8, (9, 7), 0.75, "float window")),
    Case("gather_patches", _patches(3, 4, 4, (7, 7), 0.0, "channels_last")),
    Case("gather_patches", _patches(1, 3, 2, (32, 32), 0.99, "every other pixel")),
    Case("gather_patches", _patches(5, 1, 2, (1, 1), 0.0, "uint8")),
    Case("gather_patches", _patches(3, 3, 14, (16, 16), 0.99, "float32")),
    Case("gather_patches", _patches(2, 3, 8, (3, 3), 1.0, "float")),
    Case("unshuffle", dict(B=1, L=1, D=32, ratio=0.0)),
    Case("unshuffle", dict(B=9, L=1, D=48, ratio=1.0)),
    Case("unshuffle", dict(B=1, L=49, D=384, ratio=0.5)),
    Case("unshuffle", dict(B=3, L=30, D=512, ratio=0.75, pos="float32")),
    Case("unshuffle", dict(B=67, L=4, D=48, ratio=0.5, strided=True)),
    Case("unshuffle", dict(B=1, L=16, D=768, ratio=0.99)),
    Case("unshuffle", dict(B=2, L=9, D=1280, ratio=0.75, strided=True, pos="float32")),
    Case("unshuffle", dict(B=1, L=196, D=32, ratio=0.75)),
    Case("masked_mse", _patches(1, 3, 16, (4, 4), 0.75, "uint8", norm_pix=True)),
    Case("masked_mse", _patches(3, 3, 16, (2, 3), 0.5, "float32", norm_pix=True, all_rows=True)),
    Case("masked_mse", _patches(3, 4, 14, (3, 2), 0.5, "uint8 window", norm_pix=True, all_rows=True)),
    Case("masked_mse", _patches(1, 1, 8, (9, 7), 0.75, "float window", norm_pix=False)),
    Case("masked_mse", _patches(3, 4, 4, (7, 7), 0.99, "channels_last", norm_pix=True)),
    Case("masked_mse", _patches(1, 3, 2, (7, 7), 0.75, "every other pixel", norm_pix=False, all_rows=True)),
    Case("masked_mse", _patches(19, 1, 2, (1, 1), 1.0, "uint8", norm_pix=True)),
    Case("masked_mse", _patches(2, 3, 16, (3, 3), 0.5, "float", norm_pix=True, loss_scale=2.0**16)),
    Case("masked_mse", _patches(1, 3, 32, (2, 2), 0.5, "uint8", norm_pix=True)),
    # One token, odd numbers of tokens, more than a block of queries, head widths that fill no vector or are odd.
    Case("attention", dict(B=1, N=1, H=1, D=16)),
    Case("attention", dict(B=3, N=2, H=2, D=6)),
    Case("attention", dict(B=2, N=50, H=3, D=64)),
    Case("attention", dict(B=1, N=65, H=2, D=128, strided=True)),
    Case("attention", dict(B=2, N=197, H=2, D=32)),
    Case("attention", dict(B=1, N=257, H=1, D=80, large=True)),
    Case("attention", dict(B=1, N=129, H=3, D=17)),
    Case("attention", dict(B=1, N=1024, H=1, D=24)),
]
MEAN, STD = {1: (0.5,), 3: reference.IMAGENET_MEAN, 4: (0.1, 0.3, 0.5, 0.7)}, {1: (0.2,), 3: reference.IMAGENET_STD}
STD[4] = (0.2, 0.25, 0.3, 0.35)


class Inputs(NamedTuple):
    args: tuple  # of the op
    grads: tuple  # which of them get a gradient
    exact: tuple  # the same arguments in float64, images normalised in float64


def images(B, C, p, grid, layout, dtype, device="cpu"):
    """-> images in a layout, and the same normalised in float64 as (B, C, H, W)."""
    H, W = grid[0] * p, grid[1] * p
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


def _strided(x):
    """The same numbers in a tensor with an offset and gaps."""
    wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1] + 1, dtype=x.dtype, device=x.device)
    wide[..., 1::2] = x
    return wide[..., 1::2]


def _offset(x):
    """The same numbers, contiguous, one element after an aligned address."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def make(case: Case, dtype: torch.dtype, device="cpu") -> Inputs:
    """Fresh random inputs of a case, in a compute type."""
    s, op = case.shape, case.op
    if op == "attention":
        # Scores far apart: some probabilities are nothing, and the largest score is far from zero.
        qkv = torch.randn(s["B"], s["N"], 3, s["H"], s["D"], device=device) * (8 if s.get("large") else 1.5)
        qkv = _strided(qkv.to(dtype)) if s.get("strided") else qkv.to(dtype)
        qkv = _offset(qkv) if s.get("offset") else qkv
        return Inputs((qkv,), (0,), (qkv.double(),))
    L = s["L"] if "L" in s else s["grid"][0] * s["grid"][1]
    kept = int(L * (1 - s["ratio"]))
    noise = torch.rand(s["B"], L, device=device)
    if op == "random_masking":
        # Few distinct values, so that ties matter, and both zeros.
        noise = noise.mul(L / 2).floor().sub(1).mul(-0.5).to(dtype)
        noise = _strided(noise) if s.get("strided") else noise
        return Inputs((noise, kept), (), (noise.double(), kept))

    ids_shuffle, ids_restore, _ = reference.random_masking(noise, kept)
    if op == "unshuffle":
        pos_dtype = torch.float32 if s.get("pos") == "float32" else dtype
        tokens = torch.randn(s["B"], 1 + kept, s["D"], device=device).to(dtype)
        tokens = _strided(tokens) if s.get("strided") else tokens
        mask_token = torch.randn(1, 1, s["D"], device=device).to(pos_dtype)
        pos_embed = torch.randn(1, 1 + L, s["D"], device=device).to(pos_dtype)
        args = tokens, mask_token, pos_embed, ids_restore
        return Inputs(args, (0, 1, 2), (*(x.double() for x in args[:3]), ids_restore))

    C, p = s["C"], s["p"]
    imgs, exact = images(s["B"], C, p, s["grid"], s["layout"], dtype, device)
    if op == "gather_patches":
        ids = ids_shuffle[:, :kept]
        grads = (0,) if imgs.is_floating_point() else ()
        rest = ids, p, MEAN[C], STD[C]
        return Inputs((imgs, *rest, dtype), grads, (exact, *rest, torch.float64))
    ids = ids_shuffle[:, kept:]
    rows = L if s.get("all_rows") else L - kept
    pred = torch.randn(s["B"], rows + 1, p * p * C, device=device).to(dtype)[:, 1:]
    rest = ids, p, MEAN[C], STD[C], s["norm_pix"]
    return Inputs((pred, imgs, *rest), (0,), (pred.double(), exact, *rest))


def run(function, args, grads, upstream=None):
    """-> outputs of an op, as a list, followed by the gradients of the arguments `grads`."""
    leaves = {i: args[i].detach().requires_grad_() for i in grads}
    out = function(*(leaves.get(i, x) for i, x in enumerate(args)))
    if not grads:
        return list(out) if isinstance(out, tuple) else [out]
    return [out.detach(), *torch.autograd.grad(out, list(leaves.values()), upstream.to(out.dtype))]


@contextlib.contextmanager
def implementation(name: str):
    """Who runs mae_fast.ops on CPU tensors: "cpu" (C++ where there is any), "reference", or "triton", interpreted."""
    kernels = {"cpu": {}, "reference": ops.REFERENCE, "triton": ops.TRITON}[name]
    library = torch.library.Library("mae_fast", "IMPL")
    try:
        for op, kernel in kernels.items():
            library.impl(op, kernel, "CPU")
        yield
    finally:
        library._destroy()
