"""Attention alone, forward and backward: the fused op beside everything else that computes it.

    mae-fast bench attention [--shapes 32x12x50x64,...] [--dtypes bf16,fp32] [--rounds 11]

A shape is images x heads x tokens x width of a head; the default ones are encoders and decoders of the shipped models,
and on a CPU 16 to 1024 tokens. All sides start from the packed qkv of one linear layer and end at the gradient of it,
so that the copies a side needs are its own; they take turns on the same fresh inputs. On CUDA a call is a replayed
graph, so that Python is not measured. A side that cannot run or be captured, or breaks the parity rule on one image, is
named and not timed. The limit is that of ops.py: least traffic at a copy's speed, or its own matrix products alone.
"""

import argparse
import re
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from benchmarks.harness import table
from benchmarks.harness.options import Options, listed
from benchmarks.harness.record import reason
from benchmarks.harness.timing import Clock, summary, take_turns, times_as_long
from benchmarks.parts.limits import copy_bandwidth
from benchmarks.parts.ops import PRODUCTS, alone, refusal
from mae_fast import ops, reference
from mae_fast.model.attention import sdpa, xformers
from mae_fast.parity.cases import Case, least_bytes
from mae_fast.train.heap import keep_freed_memory


def only(backend: SDPBackend) -> Callable[[Tensor], Tensor]:
    """SDPA by one backend, or a RuntimeError: a measurement must not be of another."""

    def attention(qkv: Tensor) -> Tensor:
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    return attention


TOKENS = 16, 32, 50, 65, 100, 128, 197, 257, 400, 512, 777, 1024
SHAPES = {
    "cpu": [(32, 12, 50, 64), (32, 16, 197, 32), *((8, 12, N, 64) for N in TOKENS)],
    "cuda": [(256, 12, 50, 64), (256, 16, 50, 64), (256, 16, 65, 80), (256, 16, 197, 32), (128, 16, 257, 32),
             (128, 12, 197, 64)],
}  # fmt: skip
SIDES = {
    "cpu": {"fused": ops.attention, "sdpa": sdpa, "plain": reference.attention},
    "cuda": {
        "fused": ops.attention,
        "cudnn": only(SDPBackend.CUDNN_ATTENTION),
        "flash": only(SDPBackend.FLASH_ATTENTION),
        "efficient": only(SDPBackend.EFFICIENT_ATTENTION),
        "xformers": xformers,
    },
}


def forward_backward(attention: Callable, qkv: Tensor, grad: Tensor) -> Tensor:
    """-> gradient of qkv."""
    leaf = qkv.detach().requires_grad_()
    return torch.autograd.grad(attention(leaf), leaf, grad)[0]


def captured(step: Callable) -> Callable[[], None]:
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
    graph.replay()  # the first one uploads it

    def replay(reads: Callable = step) -> None:  # a graph has addresses alone: the tensors at them live as long as it
        graph.replay()

    return replay


def unable(step: Callable, capture: Callable) -> str:
    """Why a side that passed on one image cannot be timed on a batch; empty where it can."""
    try:
        capture(step)()
    except Exception as error:  # out of memory, or what a graph may not hold
        return f"not run: {reason(error)}"
    return ""


def measure(shape: tuple[int, ...], dtype: torch.dtype, copy: float, options: Options, clock: Clock) -> list[dict]:
    """Time every side at one shape: a row a side. copy: bytes a second."""
    device, (B, H, N, Dh) = options.device, shape
    case, image = (Case("attention", dict(B=images, N=N, H=H, D=Dh)) for images in (B, 1))
    wanted = {name: side for name, side in SIDES[device].items() if name == "fused" or options.wants(name)}
    capture = captured if device == "cuda" else lambda step: step

    def draw() -> tuple[Tensor, Tensor]:
        return tuple(torch.randn(B, N, *rest, device=device).to(dtype) for rest in ((3, H, Dh), (H * Dh,)))

    notes = {name: refusal(image, dtype, device, side) or unable(partial(forward_backward, side, *draw()), capture)
             for name, side in wanted.items()}  # fmt: skip
    calls = {name: lambda *drawn, side=side: capture(partial(forward_backward, side, *drawn))
             for name, side in wanted.items() if not notes[name]}  # fmt: skip
    products = capture(alone(case, dtype, device))
    calls["products alone"] = lambda *_: products
    seconds = take_turns(calls, draw, options.rounds_or(11), clock, warm_up=2, label=f"{B}x{H}x{N}x{Dh}").seconds

    moved = sum(least_bytes(case, direction, dtype) for direction in PRODUCTS)
    limit = max(moved / copy, median(seconds["products alone"]) * sum(PRODUCTS.values()) / 6)
    rows = []
    for name in [*wanted, "products alone"]:
        row = {"side": name, "note": notes.get(name, "")}
        if name in seconds:
            row |= {"seconds": seconds[name], **summary(seconds[name])}
            if name in wanted:
                row |= {"limit_s": limit, "of_limit": limit / row["median_s"]}
            if "fused" in seconds:
                row |= times_as_long(seconds[name], seconds["fused"])
        rows.append(row)
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shapes", type=listed(shape), default=[], metavar="BxHxNxDh,...",
        help="images x heads x tokens x width of a head, as 32x12x50x64",
    )  # fmt: skip


def shape(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}", text):
        raise argparse.ArgumentTypeError(f"expected four numbers a shape, as 32x12x50x64; got {text}")
    return tuple(int(n) for n in text.split("x"))


COLUMNS = {
    "shape": lambda row: row["shape"],
    "dtype": lambda row: row["dtype"],
    "side": lambda row: row["side"],
    "ms": table.ms,
    "fused x": table.times,
    "of limit": table.share,
}


def run(options: Options) -> int:
    if options.device == "cpu":
        keep_freed_memory()
    clock, record = Clock(options.device), options.record("attention")
    copy = copy_bandwidth(clock)
    record.facts["copy GB/s"] = copy / 1e9
    shapes = options.own.shapes or ([(2, 2, 17, 16)] if options.quick else SHAPES[options.device])
    for name, dtype in options.dtypes.items():
        for shape in tqdm(shapes, unit=" shapes", leave=False):
            identity = {"part": "attention", "shape": "x".join(map(str, shape)), "dtype": name}
            if time.monotonic() > options.until:
                rows = [{"side": "fused", "note": "not run: no time left"}]
            else:
                rows = measure(shape, dtype, copy, options, clock)
            record.add([identity | row for row in rows])
    print(f"copy {copy / 1e9:.1f} GB/s\n{table.screen(record.rows, COLUMNS)}")
    return 0
