"""From the plain reference to the fast step, one change a bar.

    mae-fast bench waterfall [--presets base] [--dtypes bf16] [--batch 32] [--rounds 7]

Each bar keeps the changes of the bars before it. All bars share one set of weights and take turns, a step each a round,
on the same fresh random images; before that each one's loss and gradients must pass the parity rule at its own
precision (mae_fast.parity.model), and one that fails is named and not timed. `x before`: how many times as fast as the
bar before it that was timed, `x first`: as the first one; medians over the rounds. The limit, and the last row: the
matrix products of the step alone (benchmarks.counting.products), in turn with the bars.
"""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from unittest import mock

import torch
from torch import Tensor

from benchmarks.counting import flops, products
from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import Record, reason
from benchmarks.harness.side_by_side import draw_images, gate_of, hold
from benchmarks.harness.timing import Clock, summary, take_turns
from benchmarks.peers.sides import LR, WEIGHT_DECAY
from mae_fast import ops, reference
from mae_fast.config import Preset
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.parity.model import Gate, unscale
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.optim import make_optimizer, param_groups
from mae_fast.train.step import TrainingStep


@dataclass(frozen=True)
class Bar:
    """What is on."""

    name: str
    narrow: bool = False  # products in --dtypes, else float32
    fused_adamw: bool = False
    fast: bool = False  # mae_fast.model, else mae_fast.reference
    fused_ops: bool = False  # all but attention
    attention: str = "reference"
    compiled: bool = False
    cuda_graph: bool = False

    def __str__(self) -> str:
        return self.name


CHANGES = [
    ("narrow products", {"narrow": True}),
    ("fused AdamW", {"fused_adamw": True}),
    ("only what training needs", {"fast": True}),
    ("fused ops", {"fused_ops": True}),
    ("fused attention", {"attention": "auto"}),
    ("torch.compile", {"compiled": True}),
]
CUDA_CHANGES = [("one CUDA graph", {"cuda_graph": True})]
ALONE = Bar("products alone", narrow=True)

# What the model calls, in naive PyTorch.
PLAIN = {name: getattr(reference, name) for name in ops.backends() if hasattr(reference, name) and name != "attention"}


def bars(device: str) -> list[Bar]:
    found = [Bar("plain PyTorch, fp32")]
    for name, change in CHANGES + CUDA_CHANGES * (device == "cuda"):
        found.append(replace(found[-1], name=name, **change))
    return found


def build(bar: Bar, weights: dict, kwargs: dict, fused, plain, dtype: torch.dtype) -> TrainingStep:
    """The step of a bar. weights: Parameters by name, which all bars share; fused and plain: AdamW on them."""
    with torch.device("meta"):
        model = MaskedAutoencoderViT(**kwargs, attention=bar.attention) if bar.fast else None
        model = model or reference.MaskedAutoencoderViT(**kwargs)
    model.load_state_dict(weights, assign=True)
    step = TrainingStep(
        model, fused, dtype=dtype if bar.narrow else torch.float32, compile=bar.compiled, cuda_graphs=bar.cuda_graph
    )
    if not bar.fused_adamw:
        step.update = partial(plain_update, plain)
    return step


def plain_update(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float) -> Tensor:
    optimizer.step()
    optimizer.zero_grad()
    return loss


def call(bar: Bar, step: Callable, *arguments) -> object:
    with contextlib.nullcontext() if bar.fused_ops or not bar.fast else mock.patch.multiple(ops, **PLAIN):
        return step(*arguments)


def prepare(bar: Bar, step: TrainingStep, imgs: Tensor) -> Callable[[], object]:
    """-> the call to time. The bars share parameters: each finds no gradients, as a run of its own would leave them."""
    step.optimizer.zero_grad()
    return partial(call, bar, step, imgs, LR)


def refusal(bar: Bar, step: TrainingStep, weights: dict, gate: Gate) -> str:
    """Why the bar may not be timed; empty where it may. weights: as for build."""

    def gradients() -> dict[str, Tensor]:
        return unscale({name: p.grad for name, p in weights.items() if p.grad is not None}, step.scaler.get_scale())

    clear = step.optimizer.zero_grad
    try:
        return hold(gate, step.dtype, partial(call, bar, step.backward), gradients, clear)[1]
    except Exception as error:
        return f"not run: {reason(error)}"
    finally:
        clear()


def measure(name: str, preset: Preset, batch: int, options: Options, record: Record | None = None) -> list[dict]:
    """Time all bars: a row a bar; those of the rounds so far go to record."""
    torch.compiler.reset()
    gc.collect()
    device, size = options.device, options.img_size
    dtype_name, dtype = next(iter(options.dtypes.items()))
    kwargs = preset.kwargs() | {"img_size": size, "norm_pix_loss": True}
    torch.manual_seed(0)
    model = MaskedAutoencoderViT(**kwargs).to(device)
    weights = model.state_dict(keep_vars=True)
    fused = make_optimizer(model, "adamw", LR, WEIGHT_DECAY)
    plain = torch.optim.AdamW(param_groups(model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.95))
    if device == "cpu":  # on CUDA the fused one counts its steps in a tensor there, and the plain one does not
        plain.state = fused.state

    draw = partial(draw_images, batch, size, device)
    gate = gate_of(model.state_dict(), kwargs, *draw(), {torch.float32, dtype})
    # Compiled code then draws the numbers of eager code, and so the masks that the gate expects.
    with torch._inductor.config.patch(fallback_random=True):
        steps = {bar: build(bar, weights, kwargs, fused, plain, dtype) for bar in bars(device)}
        notes = {bar: refusal(bar, step, weights, gate) for bar, step in steps.items()}
        del gate
        gc.collect()
        sides = {bar: partial(prepare, bar, step) for bar, step in steps.items() if not notes[bar]}
        run_alone = products.run_alone(flops.products(preset, batch, img_size=size), device, dtype)
        sides[ALONE] = lambda imgs: run_alone
        turns = take_turns(
            sides, draw, options.rounds_or(7), Clock(device), warm_up=3 if device == "cuda" else 1,
            until=options.until, label=name,
            after_round=lambda seconds: record and record.put(_rows(name, batch, dtype_name, notes, seconds)),
        )  # fmt: skip
    return _rows(name, batch, dtype_name, notes, turns.seconds)


def _rows(name: str, batch: int, dtype_name: str, notes: dict[Bar, str], seconds: dict[Bar, list[float]]) -> list[dict]:
    """A row a bar. notes: why a bar was not timed, "" where it was."""
    limit = median(seconds[ALONE])
    rows, timed = [], []
    for bar in [*notes, ALONE]:
        row = {"part": "waterfall", "preset": name, "batch": batch, "side": bar.name, "note": notes.get(bar, "")}
        row["dtype"] = dtype_name if bar.narrow else "fp32"
        if bar in seconds:
            timed.append(seconds[bar])
            row |= {"seconds": timed[-1], **summary(timed[-1])}
            row |= {"images_per_s": batch / row["median_s"], "limit_s": limit, "of_limit": limit / row["median_s"]}
            row["x_before"], row["x_first"] = (
                median(a / b for a, b in zip(other, timed[-1], strict=True)) for other in (timed[-2:][0], timed[0])
            )
        rows.append(row)
    return rows


COLUMNS = {
    "side": lambda row: row["side"],
    "dtype": lambda row: row["dtype"],
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": table.ms,
    "x before": lambda row: f"{row['x_before']:.2f}",
    "x first": lambda row: f"{row['x_first']:.2f}",
    "of limit": table.share,
}


def run(options: Options) -> int:
    if options.device == "cpu":
        keep_freed_memory()
    for name, preset in options.presets.items():
        record = options.record(f"waterfall_{name}")
        for batch in options.batches_of(name):
            rows = measure(name, preset, batch, options, record)
            record.put(rows)
            print(f"\n{name}, batch {batch}")
            print(table.screen(rows, COLUMNS), flush=True)
    return 0
