"""The table of op cases: one row, and tests, `mae-fast parity` and benchmarks pick it up for every implementation.

A row is (op, shape). `make` draws fresh inputs for it, `run` calls an implementation on them, forward and backward.
"""

from typing import NamedTuple

import torch

from mae_fast import reference
from mae_fast.config import Preset


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
    Case("attention", dict(B=1, N=2, H=2, D=6)),
    Case("attention", dict(B=2, N=50, H=3, D=64)),
    Case("attention", dict(B=1, N=65, H=2, D=128, strided=True)),
    Case("attention", dict(B=1, N=197, H=2, D=32)),
    Case("attention", dict(B=3, N=100, H=2, D=32, large=True)),
    Case("attention", dict(B=4, N=257, H=1, D=80, large=True)),
    Case("attention", dict(B=1, N=129, H=3, D=17)),
    Case("attention", dict(B=1, N=1024, H=1, D=24)),
    Case("bias_gelu", dict(B=1, D=1)),
    Case("bias_gelu", dict(B=3, D=63)),
    Case("bias_gelu", dict(B=257, D=48, bias="float32")),
    Case("bias_gelu", dict(B=70, D=130, strided=True, large=True)),
    Case("add_layer_norm", dict(B=1, D=8)),
    Case("add_layer_norm", dict(B=3, D=63, branch=False)),
    Case("add_layer_norm", dict(B=70, D=200, x="float32")),
    Case("add_layer_norm", dict(B=33, D=130, x="float32", strided=True, large=True)),
    Case("add_layer_norm", dict(B=9, D=512, x="float32", branch=False)),
]


def preset_cases(preset: Preset, batch: int, img_size: int = 224, mask_ratio: float = 0.75) -> dict[str, Case]:
    """The calls of each op in a training step of a preset: {"op, where in the model": case}."""
    p, grid = preset.patch_size, (img_size // preset.patch_size,) * 2
    L, D, d = grid[0] * grid[1], preset.embed_dim, preset.decoder_embed_dim
    pictures = _patches(batch, 3, p, grid, mask_ratio, "uint8")
    cases = {
        "random_masking": Case("random_masking", dict(B=batch, L=L, ratio=mask_ratio)),
        "gather_patches": Case("gather_patches", pictures),
        "unshuffle": Case("unshuffle", dict(B=batch, L=L, D=d, ratio=mask_ratio, pos="float32")),
        "masked_mse": Case("masked_mse", dict(pictures, norm_pix=True)),
    }
    for where, N, width, heads in (
        ("encoder", 1 + int(L * (1 - mask_ratio)), D, preset.num_heads),
        ("decoder", 1 + L, d, preset.decoder_num_heads),
    ):
        hidden = int(width * preset.mlp_ratio)
        cases |= {
            f"attention, {where}": Case("attention", dict(B=batch, N=N, H=heads, D=width // heads)),
            f"bias_gelu, {where}": Case("bias_gelu", dict(B=batch, N=N, D=hidden, bias="float32")),
            f"add_layer_norm, {where}": Case("add_layer_norm", dict(B=batch, N=N, D=width, x="float32")),
        }
    return cases


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
    if op == "bias_gelu":
        x = torch.randn(s["B"], s.get("N", 2), s["D"], device=device) * (30 if s.get("large") else 2)
        x = _strided(x.to(dtype)) if s.get("strided") else x.to(dtype)
        bias = torch.randn(s["D"], device=device).to(torch.float32 if s.get("bias") == "float32" else dtype)
        return Inputs((x, bias), (0, 1), (x.double(), bias.double()))
    if op == "add_layer_norm":
        x, y = (torch.randn(s["B"], s.get("N", 2), s["D"], device=device) + 5 * s.get("large", 0) for _ in range(2))
        x, y = x.to(torch.float32 if s.get("x") == "float32" else dtype), y.to(dtype)
        x, y = (_strided(x), _strided(y)) if s.get("strided") else (x, y)
        weight, bias = (torch.randn(s["D"], device=device) for _ in range(2))
        args = (x, y, weight, bias) if s.get("branch", True) else (x, None, weight, bias)
        exact = (v if v is None else v.double() for v in args)
        grads = tuple(i for i, v in enumerate(args) if v is not None)
        return Inputs((*args, 1e-6, dtype), grads, (*exact, 1e-6, torch.float64))
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


def run(function, args, grads, upstream=()):
    """-> outputs of an op, as a list, followed by the gradients of the arguments `grads`.

    upstream: a gradient for each output.
    """
    leaves = {i: args[i].detach().requires_grad_() for i in grads}
    out = function(*(leaves.get(i, x) for i, x in enumerate(args)))
    out = out if isinstance(out, tuple) else (out,)
    if not grads:
        return list(out)
    upstream = [grad.to(x.dtype) for grad, x in zip(upstream, out, strict=True)]
    return [*(x.detach() for x in out), *torch.autograd.grad(out, list(leaves.values()), upstream)]
