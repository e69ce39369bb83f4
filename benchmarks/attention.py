"""Attention on packed qkv, forward and backward: the fused op beside SDPA, plain matrix products, and its own products.

    python -m benchmarks.attention [--dtypes bf16,fp32] [--shapes 32x12x50x64,32x16x197x32,...] [--rounds 7]
                                   [--device cpu] [--json FILE]

On a GPU this is benchmarks.attention_gpu, with its flags.

A shape is images x heads x tokens x width of a head. The default ones are an encoder's and a decoder's, then 16 to
1024 tokens. All sides start from the packed qkv of one linear layer and end at the gradient of it, so that the copies a
side needs are its own. They take turns; medians. On a CPU the process keeps freed memory, as training does. `x sdpa`
and `x best` say how many times as long as ours SDPA and the better of the others take. A side that fails the parity
rule of the tests is not timed.
"""

import argparse
import json
import sys
import time
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.provenance import cpu_wait, provenance
from mae_fast import ops, reference
from mae_fast.attention import sdpa
from mae_fast.heap import keep_freed_memory
from mae_fast.parity.cases import DTYPES
from mae_fast.parity.ops import FLOOR as ROUNDING

SIDES = {"fused": ops.attention, "sdpa": sdpa, "plain": reference.attention}
MAE = ["32x12x50x64", "32x16x197x32"]
SWEEP = [f"8x12x{N}x64" for N in (16, 32, 50, 65, 100, 128, 197, 257, 400, 512, 777, 1024)]


def forward_backward(attention, qkv: Tensor, grad: Tensor) -> tuple[list[Tensor], list[float]]:
    """-> ([result, gradient of qkv], [seconds forward, seconds backward])."""
    leaf = qkv.detach().requires_grad_()
    clock = [_now(qkv)]
    out = attention(leaf)
    clock.append(_now(qkv))
    (grad_qkv,) = torch.autograd.grad(out, leaf, grad)
    clock.append(_now(qkv))
    return [out.detach(), grad_qkv], [b - a for a, b in pairwise(clock)]


def _now(x: Tensor) -> float:
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def failures(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> list[str]:
    """Sides that break err <= 2 err(plain) + a rounding, held to float64, on one image of the shape."""
    _, H, N, Dh = shape
    qkv, grad = torch.randn(1, N, 3, H, Dh, device=device).to(dtype), torch.randn(1, N, H * Dh, device=device).to(dtype)
    exact, _ = forward_backward(reference.attention, qkv.double(), grad.double())
    plain, _ = forward_backward(reference.attention, qkv, grad)
    failed = []
    for name, attention in SIDES.items():
        for x, p, e in zip(forward_backward(attention, qkv, grad)[0], plain, exact, strict=True):
            error, allowed = ((y.double() - e).abs().max() for y in (x, p))
            if error > 2 * allowed + ROUNDING[dtype] * e.abs().max():
                failed.append(f"{name}: error {error:.2g}, plain {allowed:.2g}")
    return failed


def measure(shape: tuple[int, ...], dtype: torch.dtype, device: str, rounds: int) -> dict:
    B, H, N, Dh = shape
    row = {"shape": "x".join(map(str, shape)), "dtype": str(dtype).removeprefix("torch.")}
    if failed := failures(shape, dtype, device):
        return row | {"note": f"fails parity, not timed: {'; '.join(failed)}"}
    seconds = {name: [] for name in SIDES}
    for turn in range(rounds + 2):
        qkv = torch.randn(B, N, 3, H, Dh, device=device).to(dtype)
        grad = torch.randn(B, N, H * Dh, device=device).to(dtype)
        for name, attention in SIDES.items():
            _, taken = forward_backward(attention, qkv, grad)
            if turn > 1:  # two to warm up
                seconds[name].append(sum(taken))
    ms = {name: median(taken) * 1e3 for name, taken in seconds.items()}
    # Two products forward, five backward: the scores are formed again.
    flops = 7 * 2 * B * H * N * N * Dh
    return row | {
        **{f"{name} ms": value for name, value in ms.items()},
        "x sdpa": ms["sdpa"] / ms["fused"],
        "x best": min(ms["sdpa"], ms["plain"]) / ms["fused"],
        "TFLOP/s": flops / ms["fused"] / 1e9,
    }


def main(argv: list[str]) -> int:
    if torch.cuda.is_available() and "cpu" not in argv:
        return import_module("benchmarks.attention_gpu").main(argv)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.split("\n")[0])
    parser.add_argument("--dtypes", default="bf16,fp32")
    parser.add_argument("--shapes", default=",".join(MAE + SWEEP))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args(argv)
    if options.device == "cuda":
        parser.error("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    shapes = [tuple(int(n) for n in shape.split("x")) for shape in options.shapes.split(",")]
    if options.device == "cpu":
        keep_freed_memory()

    facts = provenance(options.device, "benchmarks.attention", argv) | {
        "ops": ops.backends()["attention"][options.device]
    }
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    rows, began, waited = [], time.perf_counter(), cpu_wait()
    for dtype in options.dtypes.split(","):
        for shape in shapes:
            row = measure(shape, DTYPES[dtype], options.device, options.rounds)
            rows.append(row)
            print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{v:14}" for k, v in row.items()), flush=True)
    if waited is not None:
        facts["waiting"] = (cpu_wait() - waited) / (time.perf_counter() - began)
        print(f"tasks of this machine waited for a core {facts['waiting']:.0%} of the time")
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
