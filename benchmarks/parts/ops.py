"""Each fused op against its reference, eager and compiled, and against the memory's speed.

    mae-fast bench ops [--presets base] [--dtypes bf16] [--batch 32]

Shapes are those of a preset's training step (mae_fast.parity.cases.preset_cases). Forward and backward are timed apart,
the sides in turn on fresh inputs, on CUDA without the host's time to launch them. The limit of an op is its least
traffic (mae_fast.parity.cases) at the speed of a plain copy, and for attention, where that takes longer, its own
matrix products alone; both measured in the same run. An op that breaks the parity rule is named and not timed.
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median

import torch
from tqdm import tqdm

from benchmarks.counting import products
from benchmarks.counting.flops import Product
from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import reason
from benchmarks.harness.timing import Clock, summary, take_turns, times_as_long
from benchmarks.parts.limits import copy_bandwidth
from mae_fast import ops, reference
from mae_fast.parity.cases import Case, least_bytes, make, preset_cases
from mae_fast.parity.op import check

PRODUCTS = {"forward": 2, "backward": 5}  # of attention, one size all: the backward forms the scores again


def prepare(function: Callable, grads: tuple, direction: str, *args) -> Callable[[], object]:
    """-> the call to time. For a backward, the forward has run already."""
    leaves = {i: args[i].detach().requires_grad_() for i in grads}
    args = [leaves.get(i, x) for i, x in enumerate(args)]
    if direction == "forward":
        return partial(function, *args)
    out = function(*args)
    # The first output of an op of several is an input of it as well: a gradient for each.
    out = out if isinstance(out, tuple) else (out,)
    return partial(torch.autograd.grad, out, list(leaves.values()), [torch.randn_like(x) for x in out])


def alone(case: Case, dtype: torch.dtype, device: str) -> Callable[[], None]:
    """The products of attention: two forward, four backward."""
    B, N, H, D = (case.shape[key] for key in "BNHD")
    pair = [Product("scores", N, D, N, heads=B * H), Product("mix", N, N, D, heads=B * H)]
    return products.run_alone(pair, device, dtype)


def refusal(case: Case, dtype: torch.dtype, device: str, function: Callable) -> str:
    """Why this is not timed; empty where it may be."""
    try:
        failed = [row for row in check(case, dtype, device, function) if not row.holds]
    except Exception as error:  # whatever a compiler raises is the answer
        return f"not run: {reason(error)}"
    if not failed:
        return ""
    worst = max(failed, key=lambda row: row.of_allowed)
    return (
        f"fails parity, not timed: {worst.result}: error {worst.error:.1e}, allowed {worst.allowed:.1e} {worst.note}"
    ).rstrip()


def measure(what: str, case: Case, dtype: torch.dtype, copy: float, options: Options, clock: Clock) -> Iterator[dict]:
    """A row for each side and direction. Without ours nothing is timed."""
    torch.compiler.reset()  # or an op's ninth shape, at most eight being kept, would run uncompiled and not say so
    device = options.device
    functions = {
        "ours": getattr(ops, case.op),
        "reference": getattr(reference, case.op),
        "reference compiled": torch.compile(getattr(reference, case.op), dynamic=False),
    }
    functions = {name: f for name, f in functions.items() if name == "ours" or options.wants(name)}
    for name in list(functions):
        if name != "reference" and (note := refusal(case, dtype, device, functions[name])):
            yield {"op": what, "side": name, "note": note}
            del functions[name]
            if name == "ours":
                return
    inputs = make(case, dtype, device)
    for direction in ["forward", "backward"] if inputs.grads else ["forward"]:
        sides = {name: partial(prepare, f, inputs.grads, direction) for name, f in functions.items()}
        if case.op == "attention":
            run_alone = alone(case, dtype, device)
            sides["products alone"] = lambda *_, run_alone=run_alone: run_alone
        moved = least_bytes(case, direction, dtype, device)
        seconds = take_turns(
            sides, lambda: make(case, dtype, device).args, options.rounds_or(21), clock, warm_up=3, label=what
        ).seconds
        limit = moved / copy
        if case.op == "attention":
            limit = max(limit, median(seconds["products alone"]) * PRODUCTS[direction] / 6)
        for name, taken in seconds.items():
            row = {"op": what, "pass": direction, "side": name, "note": "", "seconds": taken, **summary(taken)}
            row["runs"] = ops.backends()[case.op][device] if name == "ours" else ""
            if name != "products alone":
                row |= {"least_MB": moved / 1e6, "limit_s": limit, "of_limit": limit / row["median_s"]}
            yield row | times_as_long(taken, seconds["ours"])


COLUMNS = {
    "op": lambda row: row["op"],
    "pass": lambda row: row["pass"],
    "side": lambda row: f"{row['side']} {row.get('runs', '')}",
    "ms": table.ms,
    "ours x": table.times,
    "of limit": table.share,
    "least MB": lambda row: f"{row['least_MB']:.4g}",
}


def run(options: Options) -> int:
    clock = Clock(options.device, head_start=True)
    copy = copy_bandwidth(clock)
    for name, preset in options.presets.items():
        record = options.record(f"ops_{name}")
        record.facts["copy GB/s"] = copy / 1e9
        for batch in options.batches_of(name):
            for dtype_name, dtype in options.dtypes.items():
                rows = []
                cases = preset_cases(preset, batch, options.img_size)
                for what, case in tqdm(cases.items(), unit=" ops", leave=False):
                    identity = {"part": "ops", "preset": name, "dtype": dtype_name, "batch": batch}
                    if time.monotonic() > options.until:
                        new = [identity | {"op": what, "side": "ours", "note": "not run: no time left"}]
                    else:
                        new = [identity | row for row in measure(what, case, dtype, copy, options, clock)]
                    record.add(new)
                    rows += new
                print(f"\n{name}, {dtype_name}, batch {batch}; copy {copy / 1e9:.1f} GB/s")
                print(table.screen(rows, COLUMNS), flush=True)
    return 0
