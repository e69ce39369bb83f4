"""Loaders: images a second from JPEG files to batches of random crops, beside decoding alone.

    mae-fast bench data [--images DIR] [--batch 64]

All sides use every CPU of this process. The limit of a row is the same pictures only decoded, by the same run's
fastest decoder (benchmarks.parts.limits). Without --images: 256 JPEG files of 500 x 375 pixels
(benchmarks.harness.sample).
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from statistics import median

import torch

from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import reason
from benchmarks.harness.sample import write_jpegs
from benchmarks.harness.timing import Clock, summary, take_turns, times_as_long
from benchmarks.parts.limits import decoder
from mae_fast.data import make_loader, open_source
from mae_fast.data.loader import available_cpus

OURS = "ours, DALI"
DECODING = "decoding alone"


def ours(folder: Path, batch: int, img_size: int, device: str, backend: str) -> Callable[[], None]:
    loader = make_loader(open_source(folder), batch, img_size, device=device, backend=backend)
    epochs = count()

    def run() -> None:
        for _ in loader.epoch(next(epochs)):
            pass
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def official(folder: Path, batch: int, img_size: int) -> Callable[[], None]:
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

    workers = available_cpus()
    loader = torch.utils.data.DataLoader(
        Pictures(), batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True
    )

    def run() -> None:
        for _ in loader:
            pass

    return run


COLUMNS = {
    "side": lambda row: row["side"],
    "images/s": lambda row: f"{row['images_per_s']:.0f}",
    "ms": table.ms,
    "ours x": table.times,
    "of decoding": table.share,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--images", type=Path, metavar="DIR", help="pictures (default: a sample is written)")


def run(options: Options) -> int:
    batch = options.batches[0] if options.batches else (8 if options.quick else 64)
    record, rows, calls = options.record("data"), [], {}
    with ExitStack() as stack:
        folder = options.own.images
        if folder is None:
            folder = stack.enter_context(write_jpegs(32 if options.quick else 256))[0].parent
        source = open_source(folder)
        used = len(source) // batch * batch
        builders = {
            OURS: lambda: ours(folder, batch, options.img_size, options.device, "dali"),
            "ours, Pillow": lambda: ours(folder, batch, options.img_size, "cpu", "pillow"),
            "official, torchvision": lambda: official(folder, batch, options.img_size),
            DECODING: lambda: decoder([Path(source.encoded(i)) for i in range(used)], batch, options.device)[0],
        }
        absent = {}
        for name, build in builders.items():
            try:
                calls[name] = build()
            except (ImportError, RuntimeError) as error:  # also a torchvision whose operators do not load
                absent[name] = f"not run: {reason(error)}"
        sides = {name: lambda call=call: call for name, call in calls.items()}
        turns = take_turns(sides, tuple, options.rounds_or(5), Clock("cpu"), until=options.until, label="data")
    for name in builders:
        row = {"part": "data", "batch": batch, "side": name}
        if name in absent:
            rows.append(row | {"note": absent[name]})
            continue
        seconds = turns.seconds[name]
        row |= {"images_per_s": used / median(seconds), "seconds": seconds, **summary(seconds)}
        if DECODING in turns.seconds:
            row["of_limit"] = median(turns.seconds[DECODING]) / row["median_s"]
        if OURS in turns.seconds:
            row |= times_as_long(seconds, turns.seconds[OURS])
        rows.append(row)
    record.facts |= {"waiting": turns.waiting, "images": len(source), "CPUs": available_cpus()}
    record.add(rows)
    print(table.screen(rows, COLUMNS))
    return 0
