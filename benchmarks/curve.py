"""The loss curve of the fast path beside that of the plain float32 reference: same images, masks, weights, optimizer.

    mae-fast data photos demo/photos
    python -m benchmarks.curve --images demo/photos/train [--preset tiny] [--img_size 96] [--steps 200] [--batch 32]
                               [--dtype bf16] [--compile] [--json FILE] [--png FILE]

Prints the mean relative and the mean absolute difference of the two curves; more than 0.5 % mean relative difference
is a failure (exit code 1).
"""

import argparse
import json
import sys
from itertools import count, islice
from pathlib import Path
from statistics import mean

import torch

import mae_fast
from benchmarks.provenance import provenance
from benchmarks.step import PRESETS
from mae_fast.data import make_loader, open_source
from mae_fast.optim import lr_at, make_optimizer, set_lr

ALLOWED = 0.005
WARMUP, LR = 40, 1e-3  # steps; a rate high enough for the curve to fall


def batches(images: Path, batch: int, img_size: int):
    loader = make_loader(open_source(images), batch, img_size, seed=0, augment="light")
    for epoch in count():
        yield from loader.epoch(epoch, 0)


def curves(options: argparse.Namespace) -> dict[str, list[float]]:
    kwargs = PRESETS[options.preset].kwargs() | {"img_size": options.img_size, "norm_pix_loss": True}
    torch.manual_seed(0)
    plain = mae_fast.reference.MaskedAutoencoderViT(**kwargs)
    fast = mae_fast.MaskedAutoencoderViT(**kwargs)
    fast.load_state_dict(plain.state_dict())
    fast_loss = torch.compile(fast.training_loss) if options.compile else fast.training_loss
    sides = {
        "plain": (lambda imgs, noise: plain(imgs, 0.75, noise)[0], make_optimizer(plain, "adamw", LR, 0.05), False),
        "fast": (lambda imgs, noise: fast_loss(imgs, 0.75, noise), make_optimizer(fast, "adamw", LR, 0.05), True),
    }
    schedule = argparse.Namespace(lr=LR, min_lr=0.0, warmup_epochs=WARMUP, epochs=options.steps, sched="cosine")
    losses = {name: [] for name in sides}
    L = fast.patch_embed.num_patches
    for step, imgs in enumerate(islice(batches(options.images, options.batch, options.img_size), options.steps)):
        noise = torch.rand(len(imgs), L)
        for name, (loss_of, optimizer, narrow) in sides.items():
            set_lr(optimizer, lr_at(step, schedule, []))
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow and options.dtype == "bf16"):
                loss = loss_of(imgs, noise)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
        if step % 10 == 9:
            print(f"  step {step + 1}: plain {losses['plain'][-1]:.5f}, fast {losses['fast'][-1]:.5f}", file=sys.stderr)
    return losses


def draw(losses: dict[str, list[float]], title: str, file: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5))
    for (name, values), style in zip(losses.items(), ("-", "--"), strict=True):
        axes.plot(values, style, label=name)
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.legend()
    figure.savefig(file, dpi=120, bbox_inches="tight")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.curve", description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--preset", default="tiny", choices=PRESETS)
    parser.add_argument("--img_size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--png", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    losses = curves(options)
    pairs = list(zip(losses["plain"], losses["fast"], strict=True))
    relative, absolute = mean(abs(b - a) / a for a, b in pairs), mean(abs(b - a) for a, b in pairs)
    verdict = f"mean relative difference {relative:.2e}, mean absolute {absolute:.2e} over {options.steps} steps"
    print(f"{options.preset}, {options.dtype}: loss {pairs[0][0]:.4f} -> {pairs[-1][0]:.4f}; {verdict}")
    if options.json:
        facts = provenance("cpu", "benchmarks.curve") | {"mean relative": relative, "mean absolute": absolute}
        options.json.write_text(json.dumps({"facts": facts, **losses}) + "\n")
    if options.png:
        draw(losses, verdict, options.png)
    return 0 if relative <= ALLOWED else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
