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
* ours: mae_fast.step.TrainingStep, which `mae-fast pretrain` runs, with its check that loss and gradient are finite; as
  it is, compiled, and on CUDA from CUDA graphs (with weights of its own).

`ours x`: how many times as long as ours, compiled, a side took: the median over the rounds, and the interval in which
that median lies with 95 % (benchmarks.harness.timing). `of limit`: the time of the matrix products of our step alone
(benchmarks.counting.products), in the first of --dtypes, measured in turn with the sides, as a share of this side's
time. TFLOP/s count the model's FLOPs (benchmarks.counting.flops), the same for all.

Memory: on a CPU the process keeps freed memory (mae_fast.heap), from which all sides gain. The sides of one codebase
share one set of weights and, on the CPU, one optimizer state; gradients are freed by zero_grad. So three sets of
weights and moments and one of gradients are alive: 13 GB for Large, and its activations.
"""

import argparse
import gc
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from benchmarks.harness.timing import Clock, Turns, summary, take_turns, times_as_long
from benchmarks.peers import builders as peers
from mae_fast import config
from mae_fast.config import DTYPES
from mae_fast.parity.model import LOSS_SCALE, Errors, Gate, autocast, unscale
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.optim import make_optimizer, param_groups
from mae_fast.train.step import TrainingStep

LR, WEIGHT_DECAY = 1.5e-4, 0.05
OURS = "ours compiled"


@dataclass(frozen=True)
class Spec:
    """Who runs a step, and how."""

    name: str
    peer: str
    dtype: str
    compiled: bool = False
    fused: bool = False  # AdamW

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}"


def specs(dtypes: list[str], device: str) -> Iterator[Spec]:
    yield Spec("official as shipped", "official", "fp16" if device == "cuda" else "fp32")
    for dtype in dtypes:
        yield Spec("official", "official", dtype)
        yield Spec("official compiled", "official", dtype, compiled=True, fused=True)
        yield Spec("official SDPA compiled", "official SDPA", dtype, compiled=True, fused=True)
    yield Spec("Hugging Face as shipped", "Hugging Face", "fp32", fused=True)
    for dtype in dtypes:
        yield Spec("Hugging Face", "Hugging Face", dtype, fused=True)
        yield Spec("Hugging Face compiled", "Hugging Face", dtype, compiled=True, fused=True)
    for dtype in dtypes:
        yield Spec("ours", "ours", dtype, fused=True)
        yield Spec(OURS, "ours", dtype, compiled=True, fused=True)
        if device == "cuda":
            yield Spec("ours CUDA graphs", "ours CUDA graphs", dtype, compiled=True, fused=True)


class Side:
    """A step as a peer's own script takes it."""

    def __init__(self, spec: Spec, peer: peers.Peer, optimizer: torch.optim.Optimizer, device: str):
        self.peer, self.dtype, self.optimizer = peer, DTYPES[spec.dtype], optimizer
        self.loss = torch.compile(peer.loss, dynamic=False) if spec.compiled else peer.loss
        scale = LOSS_SCALE.get(self.dtype)
        self.scaler = torch.amp.GradScaler(device, init_scale=scale or 1.0, enabled=scale is not None)

    before_replay = 0  # batches, as of TrainingStep

    def forward_backward(self, imgs: Tensor) -> Tensor:
        with autocast(imgs.device, self.dtype):
            loss = self.loss(imgs)
        self.scaler.scale(loss).backward()
        return loss.detach()

    def step(self, imgs: Tensor) -> None:
        self.forward_backward(imgs)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.clear()

    def gradients(self) -> dict[str, Tensor]:
        return unscale(self.peer.gradients(), self.scaler.get_scale())

    def clear(self) -> None:
        self.optimizer.zero_grad()


class OurSide(Side):
    """A step as `mae-fast pretrain` takes it."""

    def __init__(self, spec: Spec, peer: peers.Peer, optimizer: torch.optim.Optimizer, device: str):
        self.peer, self.dtype, self.optimizer = peer, DTYPES[spec.dtype], optimizer
        self.train = TrainingStep(
            peer.model, optimizer, dtype=self.dtype, compile=spec.compiled, cuda_graphs="CUDA graphs" in spec.name
        )
        self.scaler, self.before_replay = self.train.scaler, self.train.before_replay

    def forward_backward(self, imgs: Tensor) -> Tensor:
        return self.train.backward(imgs)

    def step(self, imgs: Tensor) -> None:
        self.train(imgs, LR)

    def clear(self) -> None:
        self.optimizer.zero_grad(set_to_none=not self.train.keep_gradients)


def optimizers(peer: peers.Peer, official: bool, device: str) -> dict[bool, torch.optim.Optimizer]:
    """{fused: AdamW}. The groups are the same for all: no decay on biases and norms is everybody's rule."""
    fused = make_optimizer(peer.model, "adamw", LR, WEIGHT_DECAY)
    if not official:
        return {True: fused}
    plain = torch.optim.AdamW(param_groups(peer.model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.95))
    if device == "cpu":  # on CUDA the fused one counts its steps in a tensor there, and the plain one does not
        plain.state = fused.state
    return {False: plain, True: fused}


def build(
    wanted: list[Spec], state: dict, kwargs: dict, device: str, official: Path | None
) -> tuple[dict[Spec, Side], dict[Spec, str]]:
    """-> (sides, why the others are not there)."""
    builders = {
        "official": lambda: peers.official(state, kwargs, device, official),
        "Hugging Face": lambda: peers.huggingface(state, kwargs, device),
        "ours": lambda: peers.ours(state, kwargs, device),
        "ours CUDA graphs": lambda: peers.ours(state, kwargs, device),  # no other side may touch its gradients
    }
    models, absent, sides = {}, {}, {}
    for name, builder in builders.items():
        if not any(spec.peer.startswith(name) for spec in wanted):
            continue
        try:
            if name == "official" and official is None:
                raise FileNotFoundError("give --official DIR")
            peer = builder()
            models[name] = peer, optimizers(peer, name == "official", device)
            if name == "official":
                models["official SDPA"] = peers.with_sdpa(peer), models[name][1]
        except Exception as error:  # whatever a peer's code or its absence raises is the answer
            absent[name] = f"not run: {reason(error)}"
    for spec in wanted:
        if spec.peer in models:
            peer, adamw = models[spec.peer]
            cls = OurSide if spec.peer.startswith("ours") else Side
            sides[spec] = cls(spec, peer, adamw[spec.fused], device)
    return sides, {spec: absent[spec.peer.removesuffix(" SDPA")] for spec in wanted if spec not in sides}


def _turn(spec: Spec) -> tuple[bool, ...]:
    return spec.name != OURS, "as shipped" not in spec.name, not spec.compiled, "SDPA" not in spec.name


def admit(sides: dict[Spec, Side], gate: Gate, seed: int, until: float) -> tuple[dict[Spec, Errors], dict[Spec, str]]:
    """-> (errors of each side that ran, why a side is refused). Ours first, in case time runs out, then the best."""
    errors, refused, longest = {}, {}, {True: 0.0, False: 0.0}  # seconds, of a side that compiles and of one that not
    order = sorted(sides, key=_turn)
    for spec in tqdm(order, unit=" sides", leave=False, desc="parity"):
        side, began = sides[spec], time.monotonic()
        try:
            if began + longest[spec.compiled] > until and spec is not order[0]:
                raise TimeoutError("no time left")
            for _ in range(side.before_replay):  # what is timed is a replay, so let it be what is checked
                side.forward_backward(gate.imgs)
                side.clear()
            torch.manual_seed(seed)
            loss = side.forward_backward(gate.imgs).item()
            errors[spec] = gate.errors(loss, side.gradients())
            if failed := [row for row in gate.rows(errors[spec], side.dtype) if not row.holds]:
                worst = max(failed, key=lambda row: row.of_allowed)
                refused[spec] = (
                    f"fails parity, not timed: {worst.result}: error {worst.error:.1e}, plain PyTorch "
                    f"{worst.plain:.1e}, allowed {worst.allowed:.1e}"
                )
        except Exception as error:
            refused[spec] = f"not run: {reason(error)}"
        side.clear()
        longest[spec.compiled] = max(longest[spec.compiled], time.monotonic() - began)
    return errors, refused


def warm_up(sides: dict[Spec, Side], draw: Callable[[], tuple[Tensor]]) -> dict[Spec, str]:
    """A whole step of each, which nobody times. -> why one cannot run after all (memory for its moments, say)."""
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

    def draw() -> tuple[Tensor]:
        return (torch.randn(batch, 3, size, size, device=device),)

    (imgs,) = draw()
    torch.manual_seed(seed := 1)
    noise = torch.rand(batch, (size // preset.patch_size) ** 2, device=device)  # as every side will draw it
    gate = Gate(state, kwargs, imgs, noise, {DTYPES[spec.dtype] for spec in wanted})
    sides, notes = build(wanted, state, kwargs, device, options.own.official)
    # Compiled code then draws the numbers of eager code, and so the masks that the gate expects.
    with torch._inductor.config.patch(fallback_random=True):
        now = time.monotonic()
        share = 0.9 if device == "cuda" else 0.75  # compiling takes nearly all of it there, rounds seconds
        errors, refused = admit(sides, gate, seed, now + share * (options.until - now))
        notes |= refused
        del gate, state, imgs
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


COLUMNS = {
    "side": lambda row: row["side"],
    "dtype": lambda row: row["dtype"],
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": table.ms,
    "ours x": table.times,
    "of limit": table.share,
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
