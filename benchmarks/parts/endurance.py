"""A long run of a tiny model: whether memory, open files or threads grow.

    mae-fast bench endurance [--steps 10000] [--loader auto|dali|pillow] [--presets tiny] [--batch 8]

The run is one of `mae-fast pretrain`, with its own loop, loader, log, TensorBoard events and checkpoints, on 256 small
JPEG files: epochs are short, so what an epoch might leave behind comes hundreds of times. A hundred samples are taken
of the resident memory of the process, of what the CUDA allocator holds, of open files and threads. Workers of Pillow's
loader, which come and go with an epoch, are not counted.

The first third of the run does not count. Over the rest, memory is flat where it grows by less than 1 KB a step, by
least squares, and by less than 5 % from its first to its last third; files and threads where they become less than one
more, on average. Exit code 1 where anything is not.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.harness import table
from benchmarks.harness.growth import growths, sample, shown
from benchmarks.harness.options import Options, count
from benchmarks.harness.sample import shrunk, write_jpegs
from mae_fast.config import SIZES, Preset
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import Pretrain
from mae_fast.train.assemble import assemble
from mae_fast.train.loop import finish_epoch, prepare, train_one_epoch

FILES, SIDE, SAMPLES, CHECKPOINTS = 256, 64, 100, 20  # pictures, pixels, and how often in a run


def endure(
    preset: Preset, steps: int, batch: int, img_size: int, recipe: dict, seen: Callable[[dict], None]
) -> tuple[int, float]:
    """Train for so many steps, to the end of an epoch, and show every sample. -> (steps, seconds) taken."""
    model = MaskedAutoencoderViT(**preset.kwargs(), img_size=img_size, norm_pix_loss=True)
    epochs = -(-steps // (FILES // batch))
    settings = {"batch_size": batch, "input_size": img_size, "epochs": epochs, "warmup_epochs": 1, "lr": 1e-4}
    run = assemble(Pretrain.of(**recipe, **settings, save_every=-(-epochs // CHECKPOINTS)), model)
    run.stop.restore()  # Ctrl-C ends the benchmark, with nothing to save
    every, show, done = max(1, steps // SAMPLES), run.report.steps, 0

    def steps_done(epoch: int, records: list, images: int) -> None:
        nonlocal done
        show(epoch, records, images)
        before, done = done, done + len(records)
        if done // every > before // every:
            seen(sample(done, run.resolved.device.type))

    run.report.steps = steps_done
    prepare(run)
    began = time.perf_counter()
    for _ in range(epochs):
        train_one_epoch(run)
        finish_epoch(run)
    run.report.close()
    return done, time.perf_counter() - began


COLUMNS = {
    "what": lambda row: row["what"],
    "from": lambda row: row["first"],
    "to": lambda row: row["last"],
    "a step": lambda row: row["slope"],
    "": lambda row: row["verdict"],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=count, default=10_000)
    parser.add_argument("--loader", choices=["auto", "dali", "pillow"], default="auto")


def run(options: Options) -> int:
    steps, name = options.own.steps, next(iter(options.own.presets or ["tiny"]))
    batch = options.batches[0] if options.batches else 8
    img_size = options.img_size if name != "tiny" else 32
    if options.device == "cpu":
        torch.set_num_threads(1)  # a tiny model has nothing to share out
    record = options.record("endurance")
    record.facts |= {"preset": name, "batch": batch, "images": FILES, "asked": steps, "loader": options.own.loader}
    with write_jpegs(FILES) as originals, shrunk(originals, SIDE) as files, tempfile.TemporaryDirectory() as out:
        recipe = {
            "data_path": str(files[0].parent), "output_dir": str(Path(out)), "log_dir": str(Path(out)),
            "device": options.device, "dtype": next(iter(options.dtypes)), "loader": options.own.loader,
        }  # fmt: skip
        done, seconds = endure(SIZES[name], steps, batch, img_size, recipe, lambda row: record.rows.append(row))
    record.facts |= {"steps": done, "seconds": round(seconds, 1)}
    record.add([])
    found = growths(record.rows)
    print(f"\n{name}, {done} steps of {batch} images in {seconds:.0f} s, of which the first third does not count")
    print(table.screen([shown(growth) for growth in found], COLUMNS), flush=True)
    return 0 if all(growth.flat for growth in found) else 1
