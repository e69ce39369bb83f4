"""A training step of ours beside those of the peers, and beside its own matrix products alone.

    python -m benchmarks.step [--presets small,base,large] [--batch 32,32,16] [--rounds 3] [--official DIR]
                              [--device cuda] [--fp32] [--json FILE]

DIR is a clone of facebookresearch/mae, unmodified; without it those sides are listed as not run. --fp32 adds ours in
float32. A step is forward, backward, AdamW and zero_grad on float images of 224 pixels, 75 % masked.

All sides of a preset live in one process with the same initial weights and take turns, a step each a round, on the
same fresh random images. Before that, on the batch's own size, each side's loss and gradient must pass the parity rule
(benchmarks.gate); one that fails is named and not timed. Medians, smallest and largest, of --rounds.

* official: fp32 eager is what its script does on a CPU (on CUDA it runs fp16 autocast, which is no side here), with
  the AdamW that PyTorch gives by default; `compiled` is its best: autocast, torch.compile, fused AdamW.
* Hugging Face: scaled_dot_product_attention, and the fused AdamW which its Trainer takes.
* ours: training_loss and mae_fast.optim.make_optimizer.
* `ours x`: how many times as long as ours this side took, with the smallest and largest of the rounds.
* `products x`: how many times as long as the bf16 matrix products of our step alone (benchmarks.products), those of
  attention included, measured in turn with the sides. TFLOP/s of a side count the model's FLOPs (benchmarks.flops).

Memory: on a CPU the whole process keeps freed memory (mae_fast.heap), from which all sides gain. The sides of one
codebase differ in how they are called and share one model and, on the CPU, one optimizer state; gradients are freed by
zero_grad. So three sets of weights and moments and one of gradients are alive: 13 GB for Large, and its activations. A
preset starts when the one before is freed. The head of each table gives the largest size of the process so far, and
the share of the timed rounds in which tasks of the machine waited for a core.
"""

import argparse
import gc
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

import mae_fast
from benchmarks import flops, peers, products
from benchmarks.gate import Errors, Gate
from benchmarks.provenance import cpu_wait, provenance
from mae_fast import config
from mae_fast.heap import keep_freed_memory
from mae_fast.optim import make_optimizer, param_groups

PRESETS = {
    "tiny": config.TINY,
    "small": config.SMALL,
    "base": config.BASE,
    "large": config.LARGE,
    "huge": config.HUGE,
}
BATCH = {"tiny": 32, "small": 32, "base": 32, "large": 16, "huge": 8}
LR, WEIGHT_DECAY = 1.5e-4, 0.05
BF16, FP32 = torch.bfloat16, torch.float32

# name, peer, dtype, compiled, fused AdamW
SIDES = [
    ("official fp32 eager", "official", FP32, False, False),
    ("official bf16 eager", "official", BF16, False, False),
    ("official bf16 compiled", "official", BF16, True, True),
    ("Hugging Face fp32 eager", "Hugging Face", FP32, False, True),
    ("Hugging Face bf16 eager", "Hugging Face", BF16, False, True),
    ("Hugging Face bf16 compiled", "Hugging Face", BF16, True, True),
    ("ours fp32 compiled", "ours", FP32, True, True),
    ("ours bf16 compiled", "ours", BF16, True, True),
]
OURS = "ours bf16 compiled"
PRODUCTS = ["linear products alone", "attention products alone"]


@dataclass
class Side:
    loss: Callable[[Tensor], Tensor]
    peer: peers.Peer
    dtype: torch.dtype
    optimizer: torch.optim.Optimizer

    def forward_backward(self, imgs: Tensor) -> Tensor:
        with torch.autocast(imgs.device.type, BF16, enabled=self.dtype == BF16):
            loss = self.loss(imgs)
        loss.backward()
        return loss.detach()

    def step(self, imgs: Tensor) -> None:
        self.forward_backward(imgs)
        self.optimizer.step()
        self.optimizer.zero_grad()


def optimizers(name: str, peer: peers.Peer, device: str) -> dict[bool, torch.optim.Optimizer]:
    """{fused: AdamW}. The groups are the same for all: no decay on biases and norms is everybody's rule."""
    fused = make_optimizer(peer.model, "adamw", LR, WEIGHT_DECAY)
    if name != "official":
        return {True: fused}
    plain = torch.optim.AdamW(param_groups(peer.model, WEIGHT_DECAY), lr=LR, betas=(0.9, 0.95))
    if device == "cpu":  # on CUDA the fused one counts its steps in a tensor there, and the plain one does not
        plain.state = fused.state
    return {False: plain, True: fused}


def build(state: dict, kwargs: dict, device: str, official: Path | None, fp32: bool):
    """-> ({name: Side}, {name: why it is not there})."""
    builders = {
        "official": lambda: peers.official(state, kwargs, device, official),
        "Hugging Face": lambda: peers.huggingface(state, kwargs, device),
        "ours": lambda: peers.ours(state, kwargs, device),
    }
    models, absent, sides = {}, {}, {}
    for name, builder in builders.items():
        if name == "official" and official is None:
            absent[name] = "give --official DIR"
            continue
        try:
            peer = builder()
            models[name] = peer, optimizers(name, peer, device)
        except Exception as error:  # whatever a peer's code or its absence raises is the answer
            absent[name] = _reason(error)
    for side, name, dtype, compiled, fused in SIDES:
        if side == "ours fp32 compiled" and not fp32:
            continue
        if name in absent:
            absent[side] = absent[name]
            continue
        peer, optimizer = models[name]
        loss = torch.compile(peer.loss, dynamic=False) if compiled else peer.loss
        sides[side] = Side(loss, peer, dtype, optimizer[fused])
    return sides, {side: absent[side] for side, *_ in SIDES if side in absent}


def admit(sides: dict[str, Side], gate: Gate) -> tuple[dict[str, Errors], dict[str, str]]:
    """-> (errors of each side that ran, why a side is refused)."""
    errors, refused = {}, {}
    for name, side in sides.items():
        say(f"  parity: {name}")
        try:
            torch.manual_seed(gate.seed)
            loss = side.forward_backward(gate.imgs).item()
            errors[name] = gate.errors(loss, side.peer.gradients())
            if not gate.holds(errors[name], side.dtype):
                plain = gate.plain[side.dtype]
                refused[name] = (
                    f"fails parity, not timed: error of loss {errors[name].loss:.1e} (naive PyTorch {plain.loss:.1e}), "
                    f"of gradient {errors[name].gradient:.1e} ({plain.gradient:.1e})"
                )
        except Exception as error:
            refused[name] = f"not run: {_reason(error)}"
        side.peer.model.zero_grad()
    return errors, refused


def take_turns(calls: dict[str, Callable[[Tensor], None]], draw: Callable[[], Tensor], rounds: int):
    """-> ({name: seconds of each round}, share of that time in which tasks waited for a core or None).

    One round that is not counted goes before.
    """
    seconds = {name: [] for name in calls}
    for turn in range(rounds + 1):
        if turn == 1:
            began, waited = time.perf_counter(), cpu_wait()
        imgs = draw()
        for name, call in calls.items():
            _wait(imgs)
            start = time.perf_counter()
            call(imgs)
            _wait(imgs)
            taken = time.perf_counter() - start
            say(f"  round {turn} of {rounds}: {name} {taken:.3g} s" + (" (warm-up)" if not turn else ""))
            if turn:
                seconds[name].append(taken)
    return seconds, None if waited is None else (cpu_wait() - waited) / (time.perf_counter() - began)


def measure(
    preset: config.Preset, batch: int, rounds: int, device: str,
    official: Path | None = None, fp32: bool = False, img_size: int = 224,
) -> tuple[list[dict], float | None]:  # fmt: skip
    """-> (one row a side, then the products'; share of the time in which tasks waited for a core).

    A row has `seconds`, of each round, or says in `note` why not.
    """
    torch.compiler.reset()
    gc.collect()  # whatever the preset before left
    torch.manual_seed(0)
    kwargs = preset.kwargs() | {"img_size": img_size}
    state = mae_fast.MaskedAutoencoderViT(**kwargs).to(device).state_dict()

    def draw() -> Tensor:
        return torch.randn(batch, 3, img_size, img_size, device=device)

    say("  float64 reference")
    gate = Gate(state, kwargs, draw())
    sides, absent = build(state, kwargs, device, official, fp32)
    # Compiled code then draws the numbers of eager code, and so the masks that the gate expects.
    with torch._inductor.config.patch(fallback_random=True):
        errors, refused = admit(sides, gate)
        del gate, state
        gc.collect()
        own = flops.products(preset, batch, img_size=img_size)
        groups = [[p for p in own if p.attention == attention] for attention in (False, True)]
        calls = {name: side.step for name, side in sides.items() if name not in refused}
        for name, group in zip(PRODUCTS, groups, strict=True):
            run = products.run_alone(group, device)
            calls[name] = lambda imgs, run=run: run()
        seconds, wait = take_turns(calls, draw, rounds)

    model_flops = flops.step_flops(preset, batch, img_size=img_size)
    names = [side for side, *_ in SIDES if side in sides or side in absent]
    rows = [
        {
            "side": name,
            "note": refused.get(name) or (f"not run: {absent[name]}" if name in absent else ""),
            "seconds": seconds.get(name, []),
            "flops": model_flops,
            "error of loss": errors[name].loss if name in seconds else None,
            "error of gradient": errors[name].gradient if name in seconds else None,
        }
        for name in names
    ]
    for name, group in zip(PRODUCTS, groups, strict=True):
        rows.append({"side": name, "note": "", "seconds": seconds[name], "flops": sum(p.flops for p in group)})
    summarise(rows, batch)
    return rows, wait


def summarise(rows: list[dict], batch: int) -> None:
    """Add to each timed row what follows from its seconds and those of the others."""
    seconds = {row["side"]: row["seconds"] for row in rows}
    alone = sum(median(seconds[name]) for name in PRODUCTS)
    for row in rows:
        if not row["seconds"]:
            continue
        row["median s"] = median(row["seconds"])
        row["min s"], row["max s"] = min(row["seconds"]), max(row["seconds"])
        row["images/s"] = batch / row["median s"]
        row["TFLOP/s"] = row["flops"] / row["median s"] / 1e12
        row["products x"] = row["median s"] / alone
        if seconds.get(OURS):
            rounds = [theirs / ours for theirs, ours in zip(row["seconds"], seconds[OURS], strict=True)]
            row["ours x"] = row["median s"] / median(seconds[OURS])
            row["ours x min"], row["ours x max"] = min(rounds), max(rounds)


COLUMNS = {
    "side": lambda row: row["side"],
    "images/s": lambda row: f"{row['images/s']:.2f}",
    "s a step": lambda row: f"{row['median s']:.3f} ({row['min s']:.3f} .. {row['max s']:.3f})",
    "ours x": lambda row: f"{row['ours x']:.2f} ({row['ours x min']:.2f} .. {row['ours x max']:.2f})",
    "products x": lambda row: f"{row['products x']:.2f}",
    "TFLOP/s": lambda row: f"{row['TFLOP/s']:.3f}",
    "error of loss": lambda row: f"{row['error of loss']:.1e}",
    "of gradient": lambda row: f"{row['error of gradient']:.1e}",
}


def table(rows: list[dict]) -> str:
    def cell(name: str, row: dict) -> str:
        try:
            return COLUMNS[name](row)
        except (KeyError, TypeError):  # the products have no errors; with ours refused nothing is compared with it
            return ""

    cells = [list(COLUMNS)] + [[cell(name, row) for name in COLUMNS] for row in rows if row["seconds"]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    return "\n".join(lines + [f"{row['side']}: {row['note']}" for row in rows if row["note"]])


def versions(device: str, official: Path | None) -> dict:
    """What was measured, beyond the machine: each op's implementation and each peer's version."""
    facts = {"ops": {op: where[device] for op, where in mae_fast.backends().items()}}
    with suppress(PackageNotFoundError):
        facts["transformers"] = version("transformers")
    if official and (file := official / "models_mae.py").is_file():
        facts["models_mae.py sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return facts


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wait(imgs: Tensor) -> None:
    if imgs.is_cuda:
        torch.cuda.synchronize()


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step", description=__doc__.split("\n")[0])
    parser.add_argument("--presets", default="small,base,large", help=f"of {', '.join(PRESETS)}")
    parser.add_argument("--batch", help="images a step, one number a preset (default: 32, large 16, huge 8)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae")
    parser.add_argument("--fp32", action="store_true", help="ours in float32 too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to this file")
    options = parser.parse_args(argv)
    options.presets = options.presets.split(",")
    if unknown := [name for name in options.presets if name not in PRESETS]:
        parser.error(f"--presets: no {', '.join(unknown)}; there are {', '.join(PRESETS)}")
    sizes = options.batch.split(",") if options.batch else [BATCH[name] for name in options.presets]
    if len(sizes) != len(options.presets):
        parser.error(f"--batch: {len(options.presets)} presets and {len(sizes)} numbers")
    options.batch = [int(size) for size in sizes]
    return options


def main(argv: list[str]) -> int:
    options = parse(argv)
    if options.device == "cpu":
        keep_freed_memory()
    facts = provenance(options.device, "benchmarks.step") | versions(options.device, options.official)
    print("\n".join(f"{key}: {value}" for key, value in facts.items()))
    results = []
    for name, batch in zip(options.presets, options.batch, strict=True):
        say(f"{name}, batch {batch}")
        rows, wait = measure(PRESETS[name], batch, options.rounds, options.device, options.official, options.fp32)
        gflop = flops.step_flops(PRESETS[name]) / 1e9
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # the kernel counts in KiB
        print(f"\n{name}, batch {batch}, {gflop:.1f} GFLOP an image; process at most {memory:.1f} GiB so far")
        if wait is not None:
            print(f"tasks of this machine waited for a core {wait:.0%} of the time" + (": disturbed" * (wait > 0.1)))
        print(table(rows), flush=True)
        results.append({"preset": name, "batch": batch, "waiting": wait, "peak memory GiB": memory, "rows": rows})
        if options.json:  # after each preset, so that a long run which is stopped leaves what it had
            options.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
