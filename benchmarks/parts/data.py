"""Loaders in their steady state: images a second from JPEG files to batches of random crops, beside decoding alone.

    mae-fast bench data [--images DIR] [--batch 256] [--seconds 120] [--sweep]

Thousands of files, as the pipeline empties at the end of each epoch, of which a run has few; without --images 256
pictures of 500 x 375 pixels under many names (benchmarks.harness.sample), which the machine keeps in memory: decoding
is measured, not a disk. Each side has the machine to itself, one after the other: batches made ahead by the side before
would be its gift to the next. Headers are known, as after the first epoch, and queues are full before the windows of
time begin; --seconds is shared among them, without it each is 5 seconds. All sides may use every CPU of this process;
`cores` is what they did use, processor time of the process and its workers over time passed. The limit of a row is the
same pictures only decoded, by the same run's fastest decoder (benchmarks.parts.limits). `shards` and `decoded` are the
same pictures as tar shards and as a cache of pixels (`mae-fast data pack`), in a temporary folder.

--sweep: DALI's settings (mae_fast.data.dali_pipeline.Settings, and threads), one after another: each is tried at all
its values with the best of those before it, and the best of all is printed.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count, repeat
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.packed import packed
from benchmarks.harness.provenance import cpu_wait
from benchmarks.harness.record import reason
from benchmarks.harness.sample import write_jpegs
from benchmarks.harness.steady import Steady, know_headers
from benchmarks.harness.timing import summary, times_as_long
from benchmarks.parts.dali_sweep import sweep
from benchmarks.parts.limits import decoder
from mae_fast.data import make_loader, open_source
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source

OURS = "ours, DALI"
DECODING = "decoding alone"
LENGTH = 5.0  # seconds of a window


def ours(source: Source, batch: int, img_size: int, device: str, backend: str, **more) -> Iterator[None]:
    """Batches without end. A batch is there when the device has it."""
    loader = make_loader(source, batch, img_size, device=device, backend=backend, **more)
    know_headers(loader)
    for epoch in count():
        with closing(loader.epoch(epoch)) as batches:
            for _ in batches:
                if device == "cuda":
                    torch.cuda.synchronize()
                yield


def official(folder: Path, batch: int, img_size: int) -> Iterator[None]:
    """The loader of main_pretrain.py: torchvision's transforms in worker processes."""
    from PIL import Image
    from torchvision import transforms

    crop = transforms.Compose([
        transforms.RandomResizedCrop(img_size, scale=(0.2, 1.0), interpolation=3),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ])  # fmt: skip
    source = open_source(folder)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            return crop(Image.open(source.encoded(index)).convert("RGB"))

    loader = torch.utils.data.DataLoader(
        Pictures(), batch, shuffle=True, drop_last=True, num_workers=available_cpus(), persistent_workers=True
    )
    for _ in repeat(None):
        yield from (None for _ in loader)


def decoding(files: list[Path], batch: int, device: str) -> Iterator[None]:
    """Batches without end of pictures that are decoded and nothing else."""
    group = files[:batch]
    run, _ = decoder(group, batch, device)
    for _ in repeat(None):
        run()
        yield


COLUMNS = {
    "side": lambda row: row["side"],
    "images/s": lambda row: f"{row['images_per_s']:.0f}",
    "ms a batch": table.ms,
    "cores": lambda row: f"{row['cores']:.1f}",
    "GPU decoder's share": lambda row: f"{row['hw_decoder_load']:.0%}",
    "ours x": table.times,
    "of decoding": table.share,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures (default: a sample is written)")
    parser.add_argument("--sweep", action="store_true", help="data: try other settings of DALI, and print the best")


def batch_of(options: Options) -> int:
    default = 8 if options.quick else (256 if options.device == "cuda" else 64)
    return options.batches[0] if options.batches else default


def files_of(options: Options) -> int:
    """How many to write: an epoch of ten seconds or more on a machine of that kind."""
    return 32 if options.quick else (2**17 if options.device == "cuda" else 2**13)


def run(options: Options) -> int:
    batch, record = batch_of(options), options.record("data_sweep" if options.own.sweep else "data")
    with ExitStack() as stack:
        folder = options.own.images
        if folder is None:
            folder = stack.enter_context(write_jpegs(files_of(options), 256))[0].parent
        source = open_source(folder)
        warm_up = 2 if options.quick else 2 * available_cpus() + 4  # a worker process has two batches ahead
        record.facts |= {"images": len(source), "CPUs": available_cpus()}
        if options.own.sweep:
            build = partial(ours, source, batch, options.img_size, options.device, "dali")
            return sweep(options, record, build, warm_up, batch)
        every = max(1, len(source) // files_of(options))
        paths = [Path(source.encoded(i)) for i in range(0, len(source), every)]
        shards, cache = (stack.enter_context(packed(paths, decoded)) for decoded in (False, True))
        sides = {
            OURS: lambda: ours(source, batch, options.img_size, options.device, "dali"),
            f"{OURS}, shards": lambda: ours(shards, batch, options.img_size, options.device, "dali"),
            f"{OURS}, decoded": lambda: ours(cache, batch, options.img_size, options.device, "dali"),
            "ours, Pillow": lambda: ours(source, batch, options.img_size, "cpu", "pillow"),
            "official, torchvision": lambda: official(folder, batch, options.img_size),
            DECODING: lambda: decoding(paths, batch, options.device),
        }
        rounds, began, waited = options.rounds_or(5), time.perf_counter(), cpu_wait()
        for number, (name, build) in enumerate(sides.items()):
            left = (options.until - time.monotonic()) / (len(sides) - number) / (rounds + 1)  # 1: its warm-up
            length = 0.1 if options.quick else max(0.5, min(LENGTH, left))
            row = {"part": "data", "batch": batch, "side": name}
            try:
                with closing(build()) as batches:
                    steady = Steady.of(batches, warm_up, rounds, length)
            except (ImportError, RuntimeError) as error:  # also a torchvision whose operators do not load
                record.add([row | {"note": f"not run: {reason(error)}"}])
                continue
            row |= {"seconds": steady.seconds, "cores": steady.cores, **summary(steady.seconds)}
            row["images_per_s"] = batch / row["median_s"]
            if name in (OURS, f"{OURS}, shards") and options.device == "cuda":
                from mae_fast.data.dali_pipeline import SHIPPED

                row["hw_decoder_load"] = SHIPPED.hw_decoder_load
            record.add([row])
        if waited is not None:
            record.facts["waiting"] = (cpu_wait() - waited) / (time.perf_counter() - began)
    rows = {row["side"]: row for row in record.rows}
    for row in rows.values():
        if "seconds" in row and "seconds" in rows[DECODING]:
            row["of_limit"] = median(rows[DECODING]["seconds"]) / row["median_s"]
        if "seconds" in row and "seconds" in rows[OURS]:
            row |= times_as_long(row["seconds"], rows[OURS]["seconds"])
    record.put(list(rows.values()))
    print(table.screen(record.rows, COLUMNS))
    return 0
