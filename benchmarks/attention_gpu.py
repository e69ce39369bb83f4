"""Attention on a GPU, forward and backward: ours beside cuDNN, flash, memory-efficient SDPA and xformers.

    python -m benchmarks.attention_gpu [--dtypes bf16] [--shapes 256x12x50x64,...] [--rounds 11] [--keep] [--json FILE]
    python -m benchmarks.attention_gpu --tune    # what else our kernels could be launched with, and how long it takes

A shape is images x heads x tokens x width of a head; the default ones are encoders and decoders of the shipped models.
All sides start from the packed qkv of one linear layer and end at the gradient of it, so that the copies a side needs
are its own. A side is captured in a CUDA graph, so that Python is not measured; sides take turns, medians of rounds. A
side that cannot run a shape, or breaks the parity rule on one image of it, is named and not timed. `x best` says how
many times as long as ours the best of the others takes. --keep writes what attention="auto" reads
(mae_fast/attention.json), the rows of this GPU and these shapes; commit it with the output.
"""

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.attention import ROUNDING, forward_backward
from benchmarks.provenance import provenance
from mae_fast import ops, reference
from mae_fast.atomic import write_atomic
from mae_fast.attention import MEASURED, xformers
from mae_fast.parity.cases import DTYPES

SHAPES = ["256x12x50x64", "256x16x50x64", "256x16x65x80", "256x16x197x32", "128x16x257x32", "128x12x197x64"]


def only(backend: SDPBackend):
    """SDPA by one backend, or a RuntimeError: a measurement must not be of another."""

    def attention(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return attention


SIDES = {
    "fused": ops.attention,
    "cudnn": only(SDPBackend.CUDNN_ATTENTION),
    "flash": only(SDPBackend.FLASH_ATTENTION),
    "efficient": only(SDPBackend.EFFICIENT_ATTENTION),
    "xformers": xformers,
}


def captured(step):
    """A CUDA graph of step(), warmed up on a side stream, as torch.cuda.graphs asks -> its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def milliseconds(run, repeats: int = 20) -> float:
    """Of one run, among `repeats` in a row. Each moves more than the second-level cache holds."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / repeats


def in_turns(runs: dict, rounds: int, clock=milliseconds) -> dict[str, float]:
    """Median milliseconds of each, taking turns; the first turn warms up."""
    times = [{name: clock(run) for name, run in runs.items()} for _ in range(rounds + 1)][1:]
    return {name: median(turn[name] for turn in times) for name in runs}


def why_not(attention, shape: tuple[int, ...], dtype: torch.dtype, device: str) -> str:
    """Why a side is not timed, "" if it is: it cannot run, or err > 2 err(plain) + a rounding, held to float64."""
    _, H, N, Dh = shape
    qkv, grad = (torch.randn(1, N, *rest, device=device).to(dtype) for rest in ((3, H, Dh), (H * Dh,)))
    exact, _ = forward_backward(reference.attention, qkv.double(), grad.double())
    plain, _ = forward_backward(reference.attention, qkv, grad)
    try:
        ours, _ = forward_backward(attention, qkv, grad)
    except (RuntimeError, NotImplementedError, ImportError, ValueError) as error:
        return f"cannot: {str(error).splitlines()[0][:80]}"
    for x, p, e in zip(ours, plain, exact, strict=True):
        error, allowed = ((y.double() - e).abs().max() for y in (x, p))
        if not error <= 2 * allowed + ROUNDING[dtype] * e.abs().max():
            return f"fails parity: error {error:.2g}, plain {allowed:.2g}"
    return ""


def measure(
    shape: tuple[int, ...], dtype: torch.dtype, rounds: int, device="cuda", capture=captured, clock=milliseconds
):
    """-> a row of the table: {"dtype", "tokens", "head", "shape", "ms": {side: ms}, "left out": {side: why}}."""
    B, H, N, Dh = shape
    left_out = {name: why for name, side in SIDES.items() if (why := why_not(side, shape, dtype, device))}
    leaf = torch.randn(B, N, 3, H, Dh, device=device).to(dtype).requires_grad_()
    grad = torch.randn(B, N, H * Dh, device=device).to(dtype)
    runs = {
        name: capture(lambda side=side: torch.autograd.grad(side(leaf), leaf, grad))
        for name, side in SIDES.items()
        if name not in left_out
    }
    row = {"dtype": str(dtype).removeprefix("torch."), "tokens": N, "head": Dh, "shape": "x".join(map(str, shape))}
    return row | {"ms": in_turns(runs, rounds, clock), "left out": left_out}


def keep(gpu: str, rows: list[dict], path: Path = MEASURED) -> None:
    """The rows that have a time replace those of the same GPU, type and shape."""
    table = json.loads(path.read_text())
    old = {(row["dtype"], row["shape"]): row for row in table.get(gpu, [])}
    table[gpu] = [*(old | {(row["dtype"], row["shape"]): row for row in rows if row["ms"]}).values()]
    write_atomic(path, lambda file: file.write((json.dumps(table, indent=1) + "\n").encode()))


def tune(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> None:
    """Our launchers with a head held whole or walked in blocks, and what each could be launched with: prints ms."""
    from mae_fast_kernels import attention as held
    from mae_fast_kernels import attention_long as long

    B, H, N, Dh = shape
    qkv, grad = (torch.randn(B, N, *rest, device="cuda").to(dtype) for rest in ((3, H, Dh), (H * Dh,)))
    default, (out, lse) = held.OPTIONS, held.attention(qkv)
    passes = {
        "FORWARD": (lambda: held.attention(qkv)[0], long.FORWARD, dtype.itemsize),
        "BACKWARD": (lambda: held.attention_backward(grad, qkv, out, lse), long.BACKWARD, (dtype.itemsize, Dh > 64)),
    }
    for name, (launch, blocks, key) in passes.items():
        expected, was, budgets = launch(), blocks[key], getattr(held, f"{name}_REGISTERS")
        runs = {}
        options = [("held", dict(num_warps=4, num_stages=s, maxnreg=r)) for s, r in product((1, 2), (None, 128, 168))]
        for rows, cols, stages in product((64, 128), (16, 32, 64), (1, 2, 3)):
            options.append(("long", dict(ROWS=rows, COLS=cols, num_warps=rows // 16, num_stages=stages)))
        for kind, chosen in options:
            setattr(held, f"{name}_REGISTERS", {0: 1 << 30 if kind == "held" else -1})
            held.OPTIONS, blocks[key] = (chosen, was) if kind == "held" else (default, chosen)
            try:
                if torch.allclose(launch(), expected, rtol=0.05, atol=0.05):
                    runs[f"{kind} {chosen}"] = captured(launch)
            except Exception as error:  # Triton's own, of a kernel too large for the GPU
                print(f"{name} {shape} {kind} {chosen}: {type(error).__name__}")
        held.OPTIONS, blocks[key] = default, was
        setattr(held, f"{name}_REGISTERS", budgets)
        for options, ms in sorted(in_turns(runs, rounds).items(), key=lambda item: item[1]):
            print(f"{name} {shape} {ms:.4f} ms {options}", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention_gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--dtypes", default="bf16")
    parser.add_argument("--shapes", default=",".join(SHAPES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cuda", choices=["cuda"], help="for a CPU: benchmarks.attention")
    parser.add_argument("--tune", action="store_true", help="try other launches of our own kernels instead")
    parser.add_argument("--keep", action="store_true", help='write what attention="auto" reads')
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to this file")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("this needs a CUDA GPU; on a CPU: python -m benchmarks.attention")
    facts = provenance("cuda", "benchmarks.attention_gpu", argv) | {"ops": ops.backends()["attention"]["cuda"]}
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    rows = []
    for dtype, shape in product(options.dtypes.split(","), options.shapes.split(",")):
        shape = tuple(int(n) for n in shape.split("x"))
        if options.tune:
            tune(shape, DTYPES[dtype], options.rounds)
            continue
        row = measure(shape, DTYPES[dtype], options.rounds)
        rows.append(row)
        others = [ms for name, ms in row["ms"].items() if name != "fused"]
        best = f"  x best {min(others) / row['ms']['fused']:.2f}" if others and "fused" in row["ms"] else ""
        print(row["dtype"], row["shape"], "  ".join(f"{k} {v:.4f} ms" for k, v in row["ms"].items()) + best, flush=True)
        for name, why in row["left out"].items():
            print(f"  {name} {why}")
        if options.keep:
            keep(torch.cuda.get_device_name(), rows)
        if options.json:  # after each, in case it is stopped
            options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
