"""A training step of ours beside those of the peers, and beside its own matrix products alone.

    mae-fast bench train [--presets small,base,large] [--dtypes bf16] [--batch 32] [--rounds 7] [--official DIR]

A step is forward, backward, AdamW and zero_grad on float images of 224 pixels, 75 % masked. All sides of a preset live
in one process with the same initial weights and take turns, a step each a round, on the same fresh random images.
Before that, on the batch's own size, each side's loss and every gradient must pass the parity rule
(mae_fast.parity.model); one that fails is named and not timed.

* official: DIR is an unmodified clone of facebookresearch/mae. As shipped it runs what its script runs: float32 on a
  CPU, float16 autocast and a GradScaler on CUDA, attention spelled out, the AdamW that PyTorch gives by default. At its
  best: bf16, torch.compile, fused AdamW, and scaled_dot_product_attention as in today's timm.
* Hugging Face: scaled_dot_product_attention and the fused AdamW which its Trainer takes; as shipped, float32.
* ours: mae_fast.TrainingStep, which `mae-fast pretrain` runs, with its check that loss and gradient are finite:
  eager, compiled, and on CUDA, as by default, compiled and replayed as one CUDA graph.

`ours x`: how many times as long as ours, compiled, a side took: the median over the rounds, and the interval in which
that median lies with 95 % (benchmarks.harness.timing). `of limit`: the time of the matrix products of our step alone
(benchmarks.counting.products), in the first of --dtypes, measured in turn with the sides, as a share of this side's
time. TFLOP/s count the model's FLOPs (benchmarks.counting.flops), the same for all.

Memory: on a CPU the process keeps freed memory (mae_fast.train.heap), from which all sides gain. The sides of one
codebase share one set of weights and, on the CPU, one optimizer state; gradients are freed by zero_grad. So three sets
of weights and moments and one of gradients are alive: 13 GB for Large, and its activations.
"""

import argparse
import gc
import hashlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from tqdm import tqdm

import mae_fast
from benchmarks.counting import flops, products
from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import reason
from benchmarks.harness.side_by_side import draw_images, gate_of, hold
from benchmarks.harness.timing import Clock, Turns, summary, take_turns, times_as_long
from benchmarks.peers.sides import OURS, Side, Spec, build, specs
from mae_fast import config
from mae_fast.config import DTYPES
from mae_fast.parity.model import Errors, Gate
from mae_fast.train.heap import keep_freed_memory


def _turn(spec: Spec) -> tuple[bool, ...]:
    return spec.name != OURS, "as shipped" not in spec.name, not spec.compiled, "SDPA" not in spec.name


def admit(sides: dict[Spec, Side], gate: Gate, until: float) -> tuple[dict[Spec, Errors], dict[Spec, str]]:
    """-> (errors of each side that ran, why a side is refused). Ours first, in case time runs out, then the best."""
    errors, refused, longest = {}, {}, {True: 0.0, False: 0.0}  # seconds, of a side that compiles and of one that not
    order = sorted(sides, key=_turn)
    for spec in tqdm(order, unit=" sides", leave=False, desc="parity"):
        side, began = sides[spec], time.monotonic()
        try:
            if began + longest[spec.compiled] > until and spec is not order[0]:
                raise TimeoutError("no time left")
            held = hold(gate, side.dtype, side.forward_backward, side.gradients, side.clear)
            errors[spec], why = held
            if why:
                refused[spec] = why
        except Exception as error:
            refused[spec] = f"not run: {reason(error)}"
        side.clear()
        longest[spec.compiled] = max(longest[spec.compiled], time.monotonic() - began)
    return errors, refused


def warm_up(sides: dict[Spec, Side], draw: Callable[[], tuple[Tensor]]) -> dict[Spec, str]:
    """Run an untimed step of each. -> why one cannot run after all (memory for its moments, say)."""
    failed = {}
    for spec, side in sides.items():
        try:
            side.step(*draw())
        except Exception as error:
            failed[spec] = f"not run: {reason(error)}"
    return failed


def measure(name: str, preset: config.Preset, batch: int, options: Options) -> tuple[list[dict], float | None]:
    """-> (one row a side, then the products'; share of the time in which tasks waited for a core)."""
    torch.compiler.reset()
    gc.collect()  # whatever the preset before left
    device, size = options.device, options.img_size
    dtype_names = list(options.dtypes)
    wanted = [spec for spec in dict.fromkeys(specs(dtype_names, device)) if options.wants(str(spec))]
    kwargs = preset.kwargs() | {"img_size": size, "norm_pix_loss": True}
    torch.manual_seed(0)
    state = mae_fast.MaskedAutoencoderViT(**kwargs).to(device).state_dict()

    draw = partial(draw_images, batch, size, device)
    gate = gate_of(state, kwargs, *draw(), {DTYPES[spec.dtype] for spec in wanted})
    sides, notes = build(wanted, state, kwargs, device, options.own.official)
    # Compiled code then draws the numbers of eager code, and so the masks that the gate expects.
    with torch._inductor.config.patch(fallback_random=True):
        now = time.monotonic()
        share = 0.9 if device == "cuda" else 0.75  # compiling takes nearly all of it there, rounds seconds
        errors, refused = admit(sides, gate, now + share * (options.until - now))
        notes |= refused
        del gate, state
        gc.collect()
        sides = {spec: side for spec, side in sides.items() if spec not in notes}
        notes |= warm_up(sides, draw)
        calls = {spec: partial(partial, side.step) for spec, side in sides.items() if spec not in notes}
        groups = products.groups(flops.products(preset, batch, img_size=size))
        limit_dtype = DTYPES[dtype_names[0]]
        for alone, group in groups.items():
            run_alone = products.run_alone(group, device, limit_dtype)
            calls[alone] = lambda imgs, run_alone=run_alone: run_alone
        turns = take_turns(
            calls, draw, options.rounds_or(7), Clock(device), warm_up=3 if device == "cuda" else 0,
            until=options.until, label=name,
        )  # fmt: skip

    identity = {"part": "train", "preset": name, "batch": batch}
    ours = next((turns.seconds[spec] for spec in calls if getattr(spec, "name", "") == OURS), None)
    rows = []
    for spec in wanted:
        row = identity | {"dtype": spec.dtype, "side": spec.name, "note": notes.get(spec, "")}
        if spec in calls:
            row |= {"error_of_loss": errors[spec].loss, "error_of_gradient": errors[spec].gradient}
            row |= timed(turns, spec, list(groups), ours, batch, flops.step_flops(preset, batch, img_size=size))
        rows.append(row)
    for alone, group in groups.items():
        amount = sum(product.flops for product in group)
        rows.append(identity | {"dtype": dtype_names[0], "side": alone, "note": ""}
                    | timed(turns, alone, list(groups), ours, batch, amount))  # fmt: skip
    return rows, turns.waiting


def timed(turns: Turns, key: object, alone: list[str], ours: list[float] | None, batch: int, amount: int) -> dict:
    """What follows from the seconds of a side and those of the others. amount: FLOPs."""
    seconds = turns.seconds[key]
    row = {"seconds": seconds, **summary(seconds)}
    row |= {"images_per_s": batch / row["median_s"], "tflops": amount / row["median_s"] / 1e12}
    row["limit_s"] = sum(median(turns.seconds[name]) for name in alone)
    if key not in alone:
        row["of_limit"] = row["limit_s"] / row["median_s"]
    return row | (times_as_long(seconds, ours) if ours else {})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")


COLUMNS = table.STEP | {
    "TFLOP/s": lambda row: f"{row['tflops']:.3g}",
    "error of loss": lambda row: f"{row['error_of_loss']:.1e}",
    "of gradient": lambda row: f"{row['error_of_gradient']:.1e}",
}


def run(options: Options) -> int:
    if options.device == "cpu":
        keep_freed_memory()
    for name, preset in options.presets.items():
        record = options.record(f"train_{name}")
        if options.own.official and (file := options.own.official / "models_mae.py").is_file():
            record.facts["models_mae.py sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        for batch in options.batches_of(name):
            rows, waiting = measure(name, preset, batch, options)
            record.facts.setdefault("waiting", []).append(waiting)
            record.add(rows)
            gflop = flops.step_flops(preset, img_size=options.img_size) / 1e9
            print(f"\n{name}, batch {batch}, {gflop:.1f} GFLOP an image")
            if waiting is not None:
                print(f"tasks of this machine waited for a core {waiting:.0%} of the time"
                      + (": disturbed" * (waiting > 0.1)))  # fmt: skip
            print(table.screen(rows, COLUMNS), flush=True)
    return 0
