"""`mae-fast knn`: how well the features of an encoder tell classes apart, with the encoder as it is.

The pictures of train/ are learned from, those of val/ are judged.
"""

import argparse

from tqdm import tqdm

from mae_fast.cli.arguments import numbers
from mae_fast.cli.encoder import add_checkpoint, add_data, open_model
from mae_fast.data import open_source
from mae_fast.downstream.features import extract
from mae_fast.downstream.frozen import DRAWS, few_shot, logistic_regression, nearest_neighbours, split_of
from mae_fast.train.confusion import confusion_matrix, draw_confusion
from mae_fast.train.knn import accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    add_data(parser)
    add = parser.add_argument
    add("--k", type=numbers, default=[20], metavar="K,K", help="neighbours that vote; default 20")
    add("--temperature", type=float, default=0.07, help="of the votes; default 0.07")
    add("--logistic", action="store_true", help="logistic regression as well (scikit-learn)")
    add("--shots", type=numbers, default=[], metavar="N,N", help=f"also from N pictures a class, {DRAWS} draws")
    add("--confusion", metavar="PNG", help="draw the confusion matrix of the last classifier")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    logistic = {"logistic regression": logistic_regression()} if args.logistic else {}  # where scikit-learn is there
    sources = [open_source(args.data_path, split) for split in ("train", "val")]
    model, dtype = open_model(args)
    device = model.pos_embed.device
    classifiers = {f"kNN, k = {k}": nearest_neighbours(k, args.temperature, device) for k in args.k} | logistic
    found = []
    with tqdm(total=sum(map(len, sources)), unit=" images", leave=False) as bar:
        for source in sources:
            features = extract(
                model, source, pool=args.pool, layer=args.layer, dtype=dtype, batch_size=args.batch_size,
                num_workers=args.num_workers, backend=args.loader, progress=bar.update,
            )  # fmt: skip
            found += [features, source.classes]
    data = split_of(*found)
    print(f"{len(data.train)} training and {len(data.val)} validation pictures of {len(data.classes)} classes")
    for name, classifier in classifiers.items():
        scores = classifier(data)
        top5 = f", top-5 {accuracy(scores, data.val_labels, 5):.2f} %" if len(data.classes) > 5 else ""
        print(f"{name}: top-1 {accuracy(scores, data.val_labels):.2f} %{top5}")
        for shots in args.shots:
            mean, deviation = few_shot(data, shots, classifier)
            print(f"{name}, {shots} a class: top-1 {mean:.2f} +- {deviation:.2f} %")
    if args.confusion:
        draw_confusion(confusion_matrix(scores, data.val_labels), data.classes, args.confusion, name)
        print(f"Wrote {args.confusion}")
