"""A pretraining run from JPEG files beside the same run from one batch that is ready: what loading costs a step.

    mae-fast bench pretrain [--presets small,base] [--batch 256] [--images DIR] [--rounds 3] [--seconds 300]

One run of mae_fast.train, assembled as `mae-fast pretrain` assembles it (on CUDA compiled, one CUDA graph), goes
through its own loop (mae_fast.train.loop.train_one_epoch) with one loader after the other, in turn, for a window of
time each:

* synthetic: one batch of real pictures, on the device, handed out again and again: the rate of the step alone;
* files: JPEG files by the loader of the run;
* 256 px: the same pictures encoded again with 256 pixels on the shorter side, in a temporary folder;
* shards, decoded: the pictures of `files` as tar shards and as a cache of pixels (`mae-fast data pack`), likewise.

`of synthetic` is the share of the synthetic rate, round by round, median: the goal is 95 % on a GPU with 16 cores, 98 %
on two CPU cores. The first steps of a window do not count: batches made before it would flatter the loader. `cores` is
processor time over time passed; `cores needed` how many it takes to decode at the synthetic rate where nothing but CPUs
decode: that rate over what a core decodes in a second (benchmarks.parts.limits.decoder, on the CPU, of the same files).

Without --images thousands of files, as in `mae-fast bench data`; of larger folders an even sample is copied to 256
pixels. Checkpoints are not part of it.
"""

import argparse
import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import table
from benchmarks.harness.cpu_time import cpu_seconds
from benchmarks.harness.options import Options
from benchmarks.harness.packed import packed
from benchmarks.harness.provenance import cpu_wait
from benchmarks.harness.record import reason
from benchmarks.harness.sample import shrunk, write_jpegs
from benchmarks.harness.steady import know_headers
from benchmarks.harness.timing import summary
from benchmarks.harness.window import Window, take
from benchmarks.parts.data import files_of
from benchmarks.parts.limits import decoder
from mae_fast.config import Preset
from mae_fast.data import make_loader, open_source
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import Pretrain
from mae_fast.train.assemble import assemble
from mae_fast.train.loop import prepare

SYNTHETIC, FILES, SMALL, SHARDS, DECODED = "synthetic", "files", "256 px", "shards", "decoded"
LENGTH, SIDE = 10.0, 256  # seconds of a window; pixels
GOAL = {"cuda": 0.95, "cpu": 0.98}


def endless(loader) -> Iterator:
    for epoch in count():
        with closing(loader.epoch(epoch)) as batches:
            yield from batches


def decoded_by_a_core(files: list[Path], length: float) -> float:
    """Images that one core decodes in a second, and does nothing else with."""
    files = files[: 16 * max(1, min(len(files), 256) // 16)]
    batch = min(16, len(files))
    call, _ = decoder(files, batch, "cpu")
    call()
    began, worked, runs = time.perf_counter(), cpu_seconds(), 0
    while not runs or time.perf_counter() - began < length or cpu_seconds() == worked:
        call()
        runs += 1
    return runs * (len(files) // batch * batch) / (cpu_seconds() - worked)


def measure(
    name: str, preset: Preset, options: Options, folder: Path, sources: dict[str, Source], dtype: str
) -> list[dict]:
    """-> a row a side. folder: of the files; sources: the sides beside those."""
    torch.compiler.reset()
    gc.collect()  # whatever the preset before left
    batch, size, device = options.batch_of(name), options.img_size, options.device
    recipe = Pretrain.of(
        data_path=str(folder), batch_size=batch, input_size=size, norm_pix_loss=True, epochs=1, warmup_epochs=0,
        lr=1e-5, output_dir="", log_dir="", device=device, dtype=dtype,
    )  # fmt: skip
    torch.manual_seed(0)
    run = assemble(recipe, MaskedAutoencoderViT(**preset.kwargs(), img_size=size, norm_pix_loss=True))
    run.stop.restore()  # Ctrl-C ends the benchmark, with nothing to save
    workers = min(recipe.data.num_workers, available_cpus())
    loaders = {FILES: run.loader} | {
        side: make_loader(source, batch, size, num_workers=workers, device=run.resolved.device)
        for side, source in sources.items()
    }  # fmt: skip
    for loader in loaders.values():
        know_headers(loader)
    with closing(run.loader.epoch(0)) as batches:
        kept, _ = next(batches)
    sides = {SYNTHETIC: None} | loaders
    run.loader = Window(iter(()), 1, 0)
    prepare(run)
    rounds = options.rounds_or(3)
    left = (options.until - time.monotonic()) / len(sides) / (rounds + 1)
    length = 0.2 if options.quick else max(1.0, min(LENGTH, left))
    taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for turn in range(rounds + 1):  # the first does not count
        if turn > 1 and time.monotonic() > options.until:
            break
        for side, loader in sides.items():
            batches = ((kept, None) for _ in count()) if loader is None else endless(loader)
            with closing(batches):
                result = take(run, batches, length)
            if turn:
                taken[side].append(result)
    rows = []
    for side in sides:
        seconds, cores = [entry[0] for entry in taken[side]], [entry[1] for entry in taken[side]]
        row = {"part": "pretrain", "preset": name, "dtype": dtype, "batch": batch, "side": side, "seconds": seconds}
        row |= {"cores": median(cores), **summary(seconds)}
        row["images_per_s"] = batch / row["median_s"]
        ready_seconds = [entry[0] for entry in taken[SYNTHETIC]]
        row["of_synthetic"] = median(ready / own for ready, own in zip(ready_seconds, seconds, strict=True))
        rows.append(row)
    return rows


COLUMNS = {
    "side": lambda row: row["side"],
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": table.ms,
    "of synthetic": lambda row: f"{row['of_synthetic']:.1%}",
    "cores": lambda row: f"{row['cores']:.1f}",
    "decoded a core": lambda row: f"{row['decoded_by_a_core']:.0f}/s",
    "cores needed": lambda row: f"{row['cores_needed']:.1f}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures (default: a sample is written)")


def run(options: Options) -> int:
    record, goal = options.record("pretrain"), GOAL[options.device]
    with ExitStack() as stack:
        folder = options.own.images
        if folder is None:
            folder = stack.enter_context(write_jpegs(files_of(options), 256))[0].parent
        source = open_source(folder)
        if source.holds != "path":
            raise ValueError(f"images: {folder} holds no files of its own to decode; give a folder of JPEG files")
        every = max(1, len(source) // files_of(options))
        files = {FILES: [Path(source.encoded(i)) for i in range(0, len(source), every)]}
        files[SMALL] = stack.enter_context(shrunk(files[FILES], SIDE))
        sources = {SMALL: open_source(files[SMALL][0].parent)} | {
            side: stack.enter_context(packed(files[FILES], side == DECODED)) for side in (SHARDS, DECODED)
        }
        by_core = {side: decoded_by_a_core(paths, 0.1 if options.quick else 3.0) for side, paths in files.items()}
        record.facts |= {"images": len(source), "CPUs": available_cpus(), "goal": goal, "waiting": []}
        for name, preset in options.presets.items():
            for dtype in options.dtypes:
                began, waited = time.perf_counter(), cpu_wait()
                try:
                    rows = measure(name, preset, options, folder, sources, dtype)
                except RuntimeError as error:  # memory, say
                    note = f"not run: {reason(error)}"
                    record.add([{"part": "pretrain", "preset": name, "dtype": dtype, "side": FILES, "note": note}])
                    print(f"\n{name}, {dtype}: {note}")
                    continue
                for row in rows[1:]:
                    if row["side"] == DECODED:  # nothing is left to decode
                        continue
                    row["decoded_by_a_core"] = by_core[SMALL if row["side"] == SMALL else FILES]
                    row["cores_needed"] = rows[0]["images_per_s"] / row["decoded_by_a_core"]
                if waited is not None:
                    record.facts["waiting"].append((cpu_wait() - waited) / (time.perf_counter() - began))
                record.add(rows)
                print(f"\n{name}, {dtype}, batch {rows[0]['batch']}, goal {goal:.0%} of synthetic")
                print(table.screen(rows, COLUMNS), flush=True)
                for row in rows[1:]:
                    if row["of_synthetic"] < goal:
                        print(verdict(row, rows[0]["images_per_s"]))
    return 0


def verdict(row: dict, wanted: float) -> str:
    """Why a side is slower than the step, as far as decoding tells."""
    cores = available_cpus()
    if "cores_needed" not in row:
        return f"{row['side']}: slower than the step, with nothing to decode"
    needs = f"{row['side']}: {wanted:.0f} images/s take {row['cores_needed']:.1f} cores of decoding alone"
    return f"{needs}, of {cores} here" + (": too few without a GPU's decoder" if row["cores_needed"] > cores else "")
