"""`mae-fast data`: what training would make of a folder of images, shards made of it, and a small folder to try."""

import argparse
from collections import Counter

from tqdm import tqdm

from mae_fast.data import How, check, open_source, pack, write_sample_photos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("check", help="list every file that training would skip or stop at")
    one.add_argument("path")
    one.set_defaults(run=run_check)
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
    with tqdm(total=len(source), unit=" images", leave=False) as bar:
        bad = check(source, progress=lambda done, total: bar.update(done - bar.n))
    print_bad(bad)
    print(f"{len(source)} images, {len(bad)} bad{kinds(bad)}")
    return 1 if bad else 0


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
