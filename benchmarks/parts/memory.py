"""Peak memory of a training step, ours beside the peers: each side alone in a process of its own.

    mae-fast bench memory [--presets base] [--batch 32] [--official DIR]

On CUDA what PyTorch's allocator held at most, on a CPU the largest size of the process less its size before the model
was made. The limit of a row is what AdamW training must hold: float32 weights, gradients and two moments, 16 bytes a
parameter. The parity rule is not checked again: these are the sides of `mae-fast bench train`.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

import mae_fast
from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.provenance import ROOT
from benchmarks.peers import sides
from mae_fast.config import SIZES

STEPS = 3
LONGEST = 600  # seconds that one side may take


def peak(side: str, preset: str, batch: int, img_size: int, device: str, official: str) -> dict:
    """Peak memory of a few steps of one side, in this process: {"bytes": ..., "parameters": ...}."""
    kwargs = SIZES[preset].kwargs() | {"img_size": img_size, "norm_pix_loss": True}
    spec = next(spec for spec in sides.specs(["bf16", "fp32", "fp16"], device) if str(spec) == side)
    torch.manual_seed(0)
    before = _resident()
    state = mae_fast.MaskedAutoencoderViT(**kwargs).to(device).state_dict()
    built, absent = sides.build([spec], state, kwargs, device, Path(official) if official else None)
    if absent:
        return {"note": absent[spec]}
    del state
    parameters = sum(p.numel() for p in built[spec].peer.model.parameters() if p.requires_grad)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with torch._inductor.config.patch(fallback_random=True):  # as bench train compiles: what it left in caches serves
        for _ in range(STEPS):
            built[spec].step(torch.randn(batch, 3, img_size, img_size, device=device))
    held = torch.cuda.max_memory_allocated() if device == "cuda" else _largest() - before
    return {"bytes": held, "parameters": parameters}


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # the kernel counts in KiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")


COLUMNS = {
    "side": lambda row: row["side"],
    "dtype": lambda row: row["dtype"],
    "GiB": lambda row: f"{row['bytes'] / 2**30:.2f}",
    "MiB an image": lambda row: f"{(row['bytes'] - row['limit_bytes']) / row['batch'] / 2**20:.1f}",
    "of limit": table.share,
}


def run(options: Options) -> int:
    for name in options.presets:
        record = options.record(f"memory_{name}")
        for batch in options.batches_of(name):
            rows = []
            wanted = dict.fromkeys(sides.specs(list(options.dtypes), options.device))
            for spec in tqdm([s for s in wanted if options.wants(str(s))], unit=" sides", leave=False, desc=name):
                row = {"part": "memory", "preset": name, "batch": batch, "dtype": spec.dtype, "side": spec.name}
                rows.append(row | _in_own_process(str(spec), name, batch, options))
                record.add(rows[-1:])
            print(f"\n{name}, batch {batch}")
            print(table.screen(rows, COLUMNS), flush=True)
    return 0


def _in_own_process(side: str, preset: str, batch: int, options: Options) -> dict:
    left = min(LONGEST, options.until - time.monotonic())
    if left <= 0:
        return {"note": "not run: no time left"}
    arguments = [
        side,
        preset,
        str(batch),
        str(options.img_size),
        options.device,
        str(options.own.official.resolve() if options.own.official else ""),
    ]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.parts.memory", *arguments], cwd=ROOT,
            capture_output=True, text=True, timeout=left,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"note": f"not run: took more than {left:.0f} s"}
    if done.returncode:
        return {"note": f"not run: {next(reversed(done.stderr.strip().splitlines()), f'exit code {done.returncode}')}"}
    measured = json.loads(done.stdout.splitlines()[-1])
    if "bytes" in measured:
        measured["limit_bytes"] = 16 * measured.pop("parameters")
        measured["of_limit"] = measured["limit_bytes"] / measured["bytes"]
    return measured


if __name__ == "__main__":
    side, preset, batch, img_size, device, official = sys.argv[1:]
    print(json.dumps(peak(side, preset, int(batch), int(img_size), device, official)))
