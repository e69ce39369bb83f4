"""The loss curve with a float8 encoder (mae_fast.fp8) beside bfloat16's: same images, masks, weights, optimizer.

    mae-fast data photos demo/photos
    python -m benchmarks.fp8_curve --images demo/photos/train [--preset tiny] [--img_size 96] [--steps 200] [--batch 32]
                                   [--device cuda] [--json FILE] [--picture FILE]

It says how far apart the curves are, and nothing about speed: on a CPU the float8 products are there to be tested.
"""

import argparse
import json
import sys
from itertools import count, islice
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.provenance import provenance
from mae_fast.atomic import write_atomic
from mae_fast.config import SIZES
from mae_fast.data import make_loader, open_source
from mae_fast.fp8 import use_float8
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.optim import lr_at, make_optimizer
from mae_fast.parity.curve import LR, WARMUP, compare, draw
from mae_fast.step import TrainingStep


def curves(preset: str, img_size: int, steps: int, batch: int, device: str, images: str) -> dict[str, list[float]]:
    sides = {}
    for name in ("bf16", "fp8 encoder"):
        torch.manual_seed(0)
        model = MaskedAutoencoderViT(**SIZES[preset].kwargs(), img_size=img_size, norm_pix_loss=True).to(device)
        if name != "bf16":
            use_float8(model)
        sides[name] = TrainingStep(model, make_optimizer(model, "adamw", LR, 0.05), dtype=torch.bfloat16)
    schedule = argparse.Namespace(lr=LR, min_lr=0.0, warmup_epochs=WARMUP * steps, epochs=steps, sched="cosine")
    losses = {name: [] for name in sides}
    loader = make_loader(open_source(images), batch, img_size, seed=0, device=device)
    batches = (imgs for epoch in count() for imgs in loader.epoch(epoch))
    for i, imgs in enumerate(tqdm(islice(batches, steps), total=steps, unit=" steps", leave=False)):
        for name, step in sides.items():
            torch.manual_seed(i)  # of the masks
            losses[name].append(step(imgs, lr_at(i, schedule)).item())
    return losses


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8_curve", description=__doc__.split("\n")[0])
    parser.add_argument("--images", required=True, metavar="DIR", help="a folder of images")
    parser.add_argument("--preset", default="tiny", choices=SIZES)
    parser.add_argument("--img_size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="both curves, as .png or .svg")
    options = parser.parse_args(argv)
    losses = curves(options.preset, options.img_size, options.steps, options.batch, options.device, options.images)
    difference = compare(*losses.values())
    print(f"{options.preset}: " + ", ".join(f"{name} {a[0]:.4f} -> {a[-1]:.4f}" for name, a in losses.items()))
    print(f"mean relative difference {difference.relative:.2e}, mean absolute {difference.absolute:.2e}")
    if options.json:
        facts = provenance(options.device, "benchmarks.fp8_curve")
        content = {"facts": facts, "relative": difference.relative, "absolute": difference.absolute, "curves": losses}
        write_atomic(options.json, lambda file: file.write((json.dumps(content) + "\n").encode()))
    if options.picture:
        draw(losses, f"{options.preset}: mean relative difference {difference.relative:.2e}", options.picture)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
