"""`mae-fast data`: what training would make of a folder of images, its statistics, shards made of it, and a small
folder to try."""

import argparse
from collections import Counter
from dataclasses import replace
from pathlib import Path

import yaml
from tqdm import tqdm

from mae_fast.cli.arguments import positive
from mae_fast.data import How, check, measure, open_source, pack, pixels_of, write_sample_photos
from mae_fast.files.atomic import write_atomic
from mae_fast.pixels import RGB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("check", help="list every file that training would skip or stop at")
    one.add_argument("path")
    one.add_argument("--in_chans", type=positive, help="of a run on other pictures than 8-bit RGB")
    one.set_defaults(run=run_check)
    four = actions.add_parser("stats", help="measure mean and std, and write them as a --config of pretrain")
    four.add_argument("path")
    four.add_argument("--out", required=True, metavar="FILE.yaml")
    four.add_argument("--in_chans", type=positive, help="default: as many as most of the files have")
    four.add_argument(
        "--value_range", type=float, nargs=2, metavar=("LO", "HI"),
        help="values that become 0 and 1; default: 0 255, 0 65535, or 0 1 for floats",
    )  # fmt: skip
    four.set_defaults(run=run_stats)
    two = actions.add_parser("pack", help="write tar shards (WebDataset, with DALI's index), or a cache of pixels")
    two.add_argument("source", help="a folder of images, shards, or CIFAR files")
    two.add_argument("out", help="a new folder")
    two.add_argument("--shard_size", type=int, default=256, metavar="MIB", help="of a shard at most; default 256")
    two.add_argument("--side", type=int, metavar="PIXELS", help="shrink to this shorter side, JPEG quality 95")
    two.add_argument("--decoded", action="store_true", help="pixels in one file in place of image files in shards")
    two.add_argument(
        "--on_bad_image", choices=("skip", "convert"), default="skip",
        help="what --side and --decoded do with CMYK, palette and 16-bit files; the unreadable are left out either way",
    )  # fmt: skip
    two.set_defaults(run=run_pack)
    three = actions.add_parser("photos", help="write scikit-image's photographs as a small JPEG data set")
    three.add_argument("folder")
    three.set_defaults(run=run_photos)


def run_check(args: argparse.Namespace) -> int:
    source = open_source(args.path)
    pixels = RGB
    if args.in_chans is not None:
        pixels = replace(pixels_of(source, None), channels=args.in_chans, mean=None, std=None)
    with tqdm(total=len(source), unit=" images", leave=False) as bar:
        bad = check(source, progress=lambda done, total: bar.update(done - bar.n), pixels=pixels)
    print_bad(bad)
    print(f"{len(source)} images, {len(bad)} bad{kinds(bad)}")
    return 1 if bad else 0


def run_stats(args: argparse.Namespace) -> None:
    source = open_source(args.path)
    pixels = pixels_of(source, args.in_chans, args.value_range and tuple(args.value_range))
    with tqdm(total=len(source), unit=" images", leave=False) as bar:
        mean, std, bad = measure(source, pixels, progress=lambda done, total: bar.update(done - bar.n))
    settings = {"in_chans": pixels.channels, "value_range": list(pixels.value_range)}
    settings |= {name: [float(f"{x:.6g}") for x in numbers] for name, numbers in (("mean", mean), ("std", std))}
    text = f"# mae-fast data stats: {len(source) - bad} images, {pixels}\n"
    text += yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=110)
    write_atomic(Path(args.out), lambda file: file.write(text.encode()))
    print(text, end="")
    print(f"Wrote {args.out}, {bad} bad images left out. To use it: mae-fast pretrain --config {args.out}")


def run_pack(args: argparse.Namespace) -> None:
    how = How(args.side, args.decoded, args.on_bad_image == "convert")
    with tqdm(unit=" images", leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        written, bad = pack(args.source, args.out, shard_size=args.shard_size, how=how, progress=progress)
    print_bad(bad)
    print(f"Wrote {written} images to {args.out}, {len(bad)} left out{kinds(bad)}")


def print_bad(bad: list[tuple[str, str]]) -> None:
    for name, reason in bad:
        print(f"{name}: {reason}")


def kinds(bad: list[tuple[str, str]]) -> str:
    """Reasons and how often, in brackets."""
    counts = Counter(reason.split(":")[0] for _, reason in bad)
    return f" ({', '.join(f'{count} {reason}' for reason, count in counts.items())})" if bad else ""


def run_photos(args: argparse.Namespace) -> None:
    paths = write_sample_photos(args.folder)
    print(f"Wrote {len(paths)} JPEG files under {args.folder}")
