"""`mae-fast data`: what training would make of a folder of images, and a small folder to try."""

import argparse
from collections import Counter

from tqdm import tqdm

from mae_fast.data import check, open_source, write_sample_photos


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    one = actions.add_parser("check", help="list every file that training would skip or stop at")
    one.add_argument("path")
    one.set_defaults(run=run_check)
    two = actions.add_parser("photos", help="write scikit-image's photographs as a small JPEG data set")
    two.add_argument("folder")
    two.set_defaults(run=run_photos)


def run_check(args: argparse.Namespace) -> int:
    source = open_source(args.path)
    with tqdm(total=len(source), unit=" images", leave=False) as bar:
        bad = check(source, progress=lambda done, total: bar.update(done - bar.n))
    for name, reason in bad:
        print(f"{name}: {reason}")
    kinds = ", ".join(f"{count} {reason}" for reason, count in Counter(r.split(":")[0] for _, r in bad).items())
    print(f"{len(source)} images, {len(bad)} bad" + (f" ({kinds})" if kinds else ""))
    return 1 if bad else 0


def run_photos(args: argparse.Namespace) -> None:
    paths = write_sample_photos(args.folder)
    print(f"Wrote {len(paths)} JPEG files under {args.folder}")
