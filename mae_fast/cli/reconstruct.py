"""`mae-fast reconstruct`: pictures, masked, and what a checkpoint makes of them."""

import argparse
from pathlib import Path

import torch

from mae_fast.cli.arguments import positive
from mae_fast.downstream.reconstruct import draw, load_images, reconstruct, stretched
from mae_fast.files.checkpoint import load_pretrained


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, help="official .pth, Hugging Face directory or checkpoint-N.pth")
    add("--images", required=True, help="a folder of pictures, or one")
    add("--out", required=True, help="the PNG to write")
    add("--mask_ratio", type=float, default=0.75)
    add("--limit", type=positive, default=8, help="at most so many pictures of a folder")
    add("--seed", type=int, default=0, help="of the mask")
    add("--bands", type=positive, nargs="+", metavar="N", help="one band to draw, or three as red, green, blue; from 1")
    add(
        "--stretch", choices=("range", "percentiles"),
        help="black to white: the value range (default for 8 bits) or the 2nd to 98th percentile of a picture's band",
    )  # fmt: skip
    add("--norm_pix_loss", action="store_true", default=None, help="where the checkpoint does not tell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    overrides = {"norm_pix_loss": True} if args.norm_pix_loss else {}
    model = load_pretrained(args.checkpoint, **overrides).eval()
    names, imgs = load_images(args.images, model.patch_embed.img_size, model.pixels, args.limit)
    torch.manual_seed(args.seed)
    result = reconstruct(model, imgs, args.mask_ratio)
    percentiles = args.stretch == "percentiles" if args.stretch else not model.pixels.as_bytes
    shown = stretched(result, args.bands, percentiles)
    note = f"{Path(args.checkpoint).name}, {args.mask_ratio:.0%} masked, loss {result.loss:.4f}"
    if model.norm_pix_loss:
        note += "; normalised predictions shown with each patch's true mean and variance"
    if model.in_chans not in (1, 3) or args.bands:
        chosen = args.bands or ([1, 2, 3] if model.in_chans > 3 else [1])
        note += f"; band{'s' * (len(chosen) > 1)} {' '.join(map(str, chosen))} of {model.in_chans}"
    draw(names, shown, args.out, note)
    print(f"Wrote {args.out}: {len(names)} pictures, loss {result.loss:.4f} at {args.mask_ratio:.0%} masked")
