"""Each fused op against torch.compile of its reference, and against the memory's speed.

    python -m benchmarks.ops [--device cuda] [--batch 256] [--dtype bf16] [--json FILE]

Shapes are those of Base at 224 pixels, 75 % masked. Forward and backward are timed apart, the two sides in turn, the
median of --rounds. `of copy` is the op's least traffic (benchmarks.cost) at the speed of a plain copy, measured in
the same run, over its time; `H200 limit` the time of that traffic at 4.3 TB/s. `error` is the largest difference to
float64 as a share of the largest number; an op that fails the parity rule of the tests is not timed.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import torch

from benchmarks.cost import BANDWIDTH, bytes_moved
from benchmarks.provenance import provenance
from mae_fast import ops, reference

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from op_cases import Case, make, run  # the inputs the parity tests use

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {
    "random_masking": dict(L=196, ratio=0.75),
    "gather_patches": dict(C=3, p=16, grid=(14, 14), ratio=0.75, layout="uint8"),
    "unshuffle": dict(L=196, D=512, ratio=0.75, pos="float32"),
    "masked_mse": dict(C=3, p=16, grid=(14, 14), ratio=0.75, layout="uint8", norm_pix=True),
    "attention": dict(N=197, H=16, D=32),
    "bias_gelu": dict(N=197, D=2048, bias="float32"),
    "add_layer_norm": dict(N=197, D=512, x="float32"),
}
GRADS = {
    "unshuffle": (0, 1),
    "masked_mse": (0,),
    "attention": (0,),
    "bias_gelu": (0, 1),
    "add_layer_norm": (0, 1, 2, 3),
}
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


class Clock:
    """Seconds of a call, alone on the device and with a cold second-level cache."""

    def __init__(self, device: str):
        self.cuda = device == "cuda"
        self.flush = torch.empty(256 * 2**20 if self.cuda else 0, dtype=torch.uint8, device=device)

    def __call__(self, f) -> float:
        if not self.cuda:
            start = time.perf_counter()
            f()
            return time.perf_counter() - start
        self.flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        f()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000


def medians(clock: Clock, sides: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each side, the sides taking turns."""
    for f in sides.values():
        for _ in range(3):
            f()
    times = {name: [] for name in sides}
    for _ in range(rounds):
        for name, f in sides.items():
            times[name].append(clock(f))
    return {name: sorted(values)[rounds // 2] for name, values in times.items()}


def copy_bandwidth(clock: Clock, device: str) -> float:
    """Bytes a second, read and written, of a copy far larger than any cache."""
    source = torch.randint(0, 255, (2**31 if device == "cuda" else 2**28,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / medians(clock, {"copy": lambda: target.copy_(source)}, 9)["copy"]


def as_tuple(out) -> tuple:
    return out if isinstance(out, tuple) else (out,)


def parity(case: Case, dtype, device: str) -> tuple[float, bool]:
    """-> (largest error to float64 over outputs and gradients, whether the parity rule holds)."""
    args, grads, exact_args = make(case, dtype, device)
    naive = getattr(reference, case.op)
    upstream = [torch.randn_like(x, dtype=torch.float32) for x in as_tuple(naive(*exact_args))] if grads else ()
    results = (
        run(f, a, grads, upstream) for f, a in ((getattr(ops, case.op), args), (naive, args), (naive, exact_args))
    )
    worst, holds = 0.0, True
    for fast, plain, exact in zip(*results, strict=True):
        scale = exact.double().abs().max()
        ours, theirs = ((x.double() - exact.double()).abs().max() / scale for x in (fast, plain))
        worst, holds = max(worst, ours.item()), holds and bool(ours <= 2 * theirs + ROUNDING.get(fast.dtype, 0))
    return worst, holds


def rows_of(op: str, batch: int, dtype, device: str, clock: Clock, copy: float, rounds: int):
    case = Case(op, dict(B=batch, **SHAPES[op]))
    error, holds = parity(case, dtype, device)
    if not holds:
        yield {"op": op, "pass": "", "error": error, "verdict": "fails parity, not timed"}
        return
    args, _, _ = make(case, dtype, device)
    grads = GRADS.get(op, ())
    leaves = {i: args[i].detach().requires_grad_() for i in grads}
    args = [leaves.get(i, x) for i, x in enumerate(args)]
    functions = {"ours": getattr(ops, op), "compiled": torch.compile(getattr(reference, op))}
    passes = {"forward": {name: partial(f, *args) for name, f in functions.items()}}
    if grads:
        passes["backward"] = {}
        for name, f in functions.items():
            out = as_tuple(f(*args))
            upstream = [torch.randn_like(x) for x in out]
            passes["backward"][name] = partial(
                torch.autograd.grad, out, list(leaves.values()), upstream, retain_graph=True
            )
    size = dict(K=147 if op == "masked_mse" else 49, D=SHAPES[op].get("D", 512), image=1, compute=dtype.itemsize, out=4)
    if op == "attention":
        size["D"] *= SHAPES[op]["H"]
    for name, sides in passes.items():
        moved = bytes_moved(op if name == "forward" else f"{op}_backward", batch, **size)
        seconds = medians(clock, sides, rounds)
        yield {
            "op": op,
            "pass": name,
            "runs": ops.backends()[op][device],
            "ms": seconds["ours"] * 1e3,
            "compiled ms": seconds["compiled"] * 1e3,
            "speed-up": seconds["compiled"] / seconds["ours"],
            "least MB": moved / 1e6,
            "H200 limit ms": moved / BANDWIDTH * 1e3,
            "of copy": moved / copy / seconds["ours"],
            "error": error,
        }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    options = parser.parse_args()

    clock = Clock(options.device)
    copy = copy_bandwidth(clock, options.device)
    facts = provenance(options.device, "benchmarks.ops") | {"copy GB/s": copy / 1e9}
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    rows = []
    for op in SHAPES:
        for row in rows_of(op, options.batch, DTYPES[options.dtype], options.device, clock, copy, options.rounds):
            rows.append(row)
            print(
                "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{value:14}" for key, value in row.items()
                )
            )
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
