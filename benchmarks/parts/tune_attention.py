"""What else our Triton attention could be launched with on this GPU, and how long that takes.

    python -m benchmarks.parts.tune_attention [--shapes 256x12x50x64,...] [--dtypes bf16] [--rounds 11]

Forward and backward apart, with a head held whole and walked in blocks, fastest first; a launch whose results are far
from those of the shipped one is left out. The shipped ones: FORWARD and BACKWARD of kernels/attention_held.py, which
also has the register budgets, and of kernels/attention_blocked.py.
"""

import argparse
import sys
import time
from itertools import product
from statistics import median

import torch

from benchmarks.harness import options as shared
from benchmarks.harness.timing import Clock, take_turns
from benchmarks.parts.attention import SHAPES, captured

HELD = [
    dict(TILE=64, ROWS=64, num_warps=4, num_stages=stages, maxnreg=registers)
    for stages, registers in product((1, 2), (None, 128, 168))
]
BLOCKS = [
    dict(ROWS=rows, COLS=cols, num_warps=rows // 16, num_stages=stages)
    for rows, cols, stages in product((64, 128), (16, 32, 64), (1, 2, 3))
]


def tune(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> None:
    """Time all launches of one shape and print milliseconds, fastest first."""
    from mae_fast_kernels import attention
    from mae_fast_kernels import attention_blocked as blocked
    from mae_fast_kernels import attention_held as held

    B, H, N, Dh = shape
    qkv, grad = (torch.randn(B, N, *rest, device="cuda").to(dtype) for rest in ((3, H, Dh), (H * Dh,)))
    out, lse = attention.attention(qkv)
    passes = {
        "FORWARD": (lambda: attention.attention(qkv)[0], blocked.FORWARD, dtype.itemsize),
        "BACKWARD": (
            lambda: attention.attention_backward(grad, qkv, out, lse)[0],
            blocked.BACKWARD,
            (dtype.itemsize, Dh > 64),
        ),
    }
    for name, (launch, blocks, key) in passes.items():
        expected, was, budgets = launch(), blocks[key], getattr(held, f"{name}_REGISTERS")
        whole, several = getattr(held, name), N > 64
        shipped = whole[several]
        replays = {}
        for kind, options in [*(("held", options) for options in HELD), *(("blocked", options) for options in BLOCKS)]:
            setattr(held, f"{name}_REGISTERS", {0: 1 << 30 if kind == "held" else -1})
            whole[several], blocks[key] = (options, was) if kind == "held" else (shipped, options)
            try:
                if torch.allclose(launch(), expected, rtol=0.05, atol=0.05):
                    replays[f"{kind} {options}"] = captured(launch)
            except Exception as error:  # Triton's own, of a kernel too large for the GPU
                print(f"{name} {shape} {kind} {options}: {type(error).__name__}")
        whole[several], blocks[key] = shipped, was
        setattr(held, f"{name}_REGISTERS", budgets)
        calls = {launched: lambda replay=replay: replay for launched, replay in replays.items()}
        seconds = take_turns(calls, tuple, rounds, Clock("cuda"), label=name).seconds
        for launched in sorted(seconds, key=lambda launched: median(seconds[launched])):
            print(f"{name} {shape} {median(seconds[launched]) * 1e3:.4f} ms {launched}", flush=True)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parts.tune_attention", description=__doc__.split("\n")[0]
    )
    shared.add_arguments(parser, ["attention"])
    options = shared.parse(parser, parser.parse_args(argv), argv)
    if options.device != "cuda":
        parser.error("this needs a CUDA GPU")
    for dtype, shape in product(options.dtypes.values(), options.own.shapes or SHAPES["cuda"]):
        if time.monotonic() < options.until:
            tune(shape, dtype, options.rounds_or(11))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
