"""Memory of a training step: as modelled (mae_fast.train.step_memory) and as measured.

    python -m benchmarks.counting.step_memory [--presets small,base,large,huge] [--dtype bf16] [--batch 32]
                                              [--device cuda] [--checkpointing] [--measure] [--json FILE]

Without --measure it prints the model alone, which needs no GPU. With it two updates of two batches each are run; the
peak is torch.cuda.max_memory_allocated on a GPU, and on a CPU the most bytes of tensors alive at once, which leaves out
what an op takes and gives back inside.
"""

import argparse
import json
import sys
import weakref
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import mae_fast
from benchmarks.harness.provenance import provenance
from mae_fast.config import DTYPES, SIZES
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep
from mae_fast.train.step_memory import StepMemory, step_memory


def images(model: mae_fast.MaskedAutoencoderViT, batch: int) -> Tensor:
    device = next(model.parameters()).device
    return torch.zeros(batch, *model.patch_embed.img_size, model.in_chans, dtype=torch.uint8, device=device)


def saved(model: mae_fast.MaskedAutoencoderViT, batch: int, dtype: torch.dtype) -> int:
    """Bytes that one forward pass keeps for the backward pass, parameters and pixels apart."""
    imgs, kept = images(model, batch), {}
    own = {x.untyped_storage().data_ptr() for x in (imgs, *model.parameters())}

    def keep(x: Tensor) -> Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    narrow = torch.autocast(imgs.device.type, dtype, enabled=dtype != torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x), narrow:
        loss = model.training_loss(imgs)
    total = sum(kept.values())
    del loss  # not before: what it keeps must be alive to the end, or an address could come twice
    return total


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all tensors alive that were made inside or shown to it, and their peak."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known: dict[int, int] = {}

    def see(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage._cdata not in self.known:
            self.known[storage._cdata] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._gone, storage._cdata)
        return x

    def _gone(self, key: int) -> None:
        self.now -= self.known.pop(key)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return tree_map_only(Tensor, self.see, func(*args, **(kwargs or {})))


def peak(model: mae_fast.MaskedAutoencoderViT, batch: int, dtype: torch.dtype) -> int:
    """Most bytes alive during two updates, each of two batches, in eager mode."""
    optimizer = make_optimizer(model, "adamw", 1e-4, 0.05)
    step = TrainingStep(model, optimizer, dtype=dtype, accumulate=2, compile=False)
    if step.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        for _ in range(4):
            step(images(model, batch), 1e-4)
        return torch.cuda.max_memory_allocated()
    live = LiveBytes()
    for parameter in model.parameters():
        live.see(parameter)
    with live:
        for _ in range(4):
            step(images(model, batch), 1e-4)
    return live.peak


def line(name: str, need: StepMemory, batch: int, measured: int | None) -> str:
    text = (
        f"{name:6} {need.fixed / 2**30:9.2f} {need.per_image / 2**20:13.1f} {need.activations / 2**20:18.1f} "
        f"{batch:6} {need.peak(batch) / 2**30:13.2f}"
    )
    return text + (f" {measured / 2**30:13.2f} {measured / need.peak(batch):5.2f}" if measured else "")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.counting.step_memory", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--presets", default="small,base,large,huge", help=f"of {', '.join(SIZES)}")
    parser.add_argument("--dtype", default="bf16", choices=DTYPES)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--checkpointing", action="store_true", help="with activation checkpointing")
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.presets.split(",") if name not in SIZES]:
        parser.error(f"--presets: no {', '.join(unknown)}; there are {', '.join(SIZES)}")
    rows = []
    measured = "  measured GiB" if options.measure else ""
    print(f"preset  fixed GiB  MiB an image  of it activations  batch  modelled GiB{measured}")
    for name in options.presets.split(","):
        with torch.device(options.device if options.measure else "meta"):
            model = mae_fast.MaskedAutoencoderViT(**SIZES[name].kwargs())
        model.activation_checkpointing = options.checkpointing
        need = step_memory(model, DTYPES[options.dtype])
        measured = peak(model, options.batch, DTYPES[options.dtype]) if options.measure else None
        print(line(name, need, options.batch, measured), flush=True)
        rows.append({"preset": name, "batch": options.batch, **vars(need), "measured": measured})
    if options.json:
        facts = provenance(options.device, "benchmarks.counting.step_memory")
        options.json.write_text(json.dumps({"facts": facts, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
