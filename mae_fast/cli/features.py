"""`mae-fast features`: what an encoder makes of every picture of a data set, in a file."""

import argparse

from tqdm import tqdm

from mae_fast.cli.encoder import add_checkpoint, add_data, open_model
from mae_fast.data import open_source
from mae_fast.downstream.features import check_format, extract, names_of, write_features
from mae_fast.train.encoding import POOLS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_data(parser, POOLS)
    parser.add_argument("--split", default="train", choices=("train", "val"), help="the folder of that name, if any")
    parser.add_argument("--out", required=True, help="FILE.npz, .safetensors or .parquet: features, names, labels")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    check_format(args.out)
    source = open_source(args.data_path, args.split)
    model, dtype = open_model(args)
    with tqdm(total=len(source), unit=" images", leave=False) as bar:
        found = extract(
            model, source, pool=args.pool, layer=args.layer, dtype=dtype, batch_size=args.batch_size,
            num_workers=args.num_workers, backend=args.loader, progress=bar.update,
        )  # fmt: skip
    write_features(args.out, found, names_of(source, found.indices, args.data_path), source.classes)
    print(f"Wrote {args.out}: {' x '.join(map(str, found.features.shape))} numbers, {len(source.classes)} classes")
