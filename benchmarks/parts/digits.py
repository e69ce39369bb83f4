"""What pretraining is worth on scikit-learn's digits: a small encoder, pretrained and as it was drawn, judged alike.

    mae-fast bench digits [--epochs 60] [--tune_epochs 15] [--seeds 0,1,2]

1797 pictures of 8 pixels, enlarged to 32 (benchmarks.harness.digits), four fifths of each class to learn from. A model
of half a million weights with patches of 4 pixels is pretrained on those, without labels, by a run of `mae-fast
pretrain`. Then both encoders, that and the one it began as, are judged on the last fifth: weighted kNN, logistic
regression of all and of 1, 5 and 10 pictures a class, `mae-fast linprobe` and `mae-fast finetune`. Each seed draws its
own weights, order, crops and masks. Exit code 1 where pretraining does not win by more than the seeds differ.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import table
from benchmarks.harness.digits import SIDE, write_digits
from benchmarks.harness.options import Options, count, listed
from benchmarks.reports.digits import COLUMNS, summary
from mae_fast.data import open_source
from mae_fast.downstream.features import extract
from mae_fast.downstream.frozen import few_shot, logistic_regression, nearest_neighbours, split_of
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import Finetune, Linprobe, Pretrain
from mae_fast.train import pretrain
from mae_fast.train.classify import classify
from mae_fast.train.knn import accuracy
from mae_fast.train.report import read_log

SIZE = {
    "img_size": SIDE, "patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3,
    "decoder_embed_dim": 64, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip
RECIPE = {"batch_size": 128, "input_size": SIDE, "warmup_epochs": 10, "blr": 3e-3, "augment": "light"}
SHOTS = (1, 5, 10)
TUNING = {"batch_size": 128, "input_size": SIDE, "warmup_epochs": 3}
TUNED = {
    "linprobe": (Linprobe, {"global_pool": True, "lr": 6.4}),  # the official run's, in place of its blr
    "finetune": (Finetune, {"aa": "none", "reprob": 0.0, "drop_path": 0.0, "layer_decay": 1.0, "lr": 1e-3}),
}


def new_model(seed: int) -> MaskedAutoencoderViT:
    torch.manual_seed(seed)
    return MaskedAutoencoderViT(**SIZE, norm_pix_loss=False)


def judge(model: MaskedAutoencoderViT, data: Path, pool: str) -> dict[str, float]:
    """{classifier: top-1 accuracy in percent} of the model's features."""
    sources = [open_source(data, split) for split in ("train", "val")]
    found = [x for source in sources for x in (extract(model.eval(), source, pool=pool, crop=1.0), source.classes)]
    split = split_of(*found)
    classifiers = {"kNN, k = 20": nearest_neighbours(), "logistic regression": logistic_regression()}
    scores = {name: accuracy(classifier(split), split.val_labels) for name, classifier in classifiers.items()}
    for shots in SHOTS:
        name = f"logistic regression, {shots} a class"
        scores[name], _ = few_shot(split, shots, classifiers["logistic regression"])
    return scores


def tune(model: MaskedAutoencoderViT, data: Path, epochs: int, seed: int, recipe: dict) -> dict[str, float]:
    """{classifier: top-1 accuracy in percent after the last epoch} of classifiers trained on the model's encoder."""
    scores = {}
    for name, (kind, settings) in TUNED.items():
        with tempfile.TemporaryDirectory() as out:
            weights = Path(out, "encoder.pth")
            save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, weights)
            settings = TUNING | settings | recipe | {"output_dir": out, "seed": seed, "epochs": epochs}
            classify(kind.of(**settings, data_path=str(data), finetune=str(weights)))
            scores[name] = read_log(Path(out, "log.txt"))[-1]["test_acc1"]
    return scores


def rows_of(seed: int, epochs: int, tune_epochs: int, pool: str, data: Path, recipe: dict) -> list[dict]:
    """A row for each encoder and classifier. tune_epochs: 0 leaves out those that are trained for epochs."""
    rows = []
    model, seconds = new_model(seed), 0.0
    for side in ("random weights", "pretrained"):
        if side == "pretrained":
            began = time.perf_counter()
            pretrain(Pretrain.of(**RECIPE, **recipe, seed=seed, epochs=epochs, data_path=str(data)), model)
            seconds = time.perf_counter() - began
        scores = judge(model, data, pool) | (tune(model, data, tune_epochs, seed, recipe) if tune_epochs else {})
        for name, top1 in scores.items():
            rows.append({"part": "digits", "side": side, "op": name, "seed": seed, "pool": pool, "epochs": epochs,
                         "top1": round(top1, 2), "seconds": [round(seconds, 1)]})  # fmt: skip
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--epochs", type=count, default=60)
    parser.add_argument("--tune_epochs", type=int, default=15, help="of linprobe and finetune; 0: neither")
    parser.add_argument("--seeds", type=listed(int), default=[0, 1, 2], metavar="N,...")
    parser.add_argument("--pool", choices=["cls", "mean"], default="mean")


def run(options: Options) -> int:
    own, record = options.own, options.record("digits")
    record.facts |= {
        "weights": sum(p.numel() for p in new_model(0).parameters()), "model": SIZE, "recipe": RECIPE,
        "epochs": own.epochs, "tune_epochs": own.tune_epochs, "seeds": len(own.seeds), "pool": own.pool,
    }  # fmt: skip
    recipe = {"device": options.device, "output_dir": "", "log_dir": ""}
    with tempfile.TemporaryDirectory() as folder:
        write_digits(Path(folder))
        for seed in own.seeds:
            record.add(rows_of(seed, own.epochs, own.tune_epochs, own.pool, Path(folder), recipe))
    found = summary(record.rows)
    print(f"\nDigits, {record.facts['weights']:,} weights, {own.epochs} epochs, {len(own.seeds)} seeds")
    print(table.screen(found, COLUMNS), flush=True)
    return 0 if all(row["wins"] for row in found) else 1
