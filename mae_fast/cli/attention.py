"""`mae-fast attention`: where the encoder of a checkpoint looks."""

import argparse
from pathlib import Path

from mae_fast.cli.arguments import positive
from mae_fast.cli.encoder import add_checkpoint, open_model
from mae_fast.downstream.attention import attention_maps, draw_maps
from mae_fast.downstream.reconstruct import drawable, load_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_checkpoint(parser)
    add("--images", required=True, help="a folder of pictures, or one")
    add("--out", required=True, help="the PNG to write")
    add("--layer", type=positive, help="the block whose heads are drawn, from 1; default the last")
    add("--limit", type=positive, default=8, help="at most so many pictures of a folder; default 8")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    model, _ = open_model(args)
    names, imgs = load_images(args.images, model.patch_embed.img_size, model.pixels, args.limit)
    maps = attention_maps(model, imgs.to(model.pos_embed.device), args.layer)
    layer = args.layer or len(model.blocks)
    note = f"{Path(args.checkpoint).name}: the class token's attention in block {layer} of {len(model.blocks)}"
    pictures = drawable(model.pixels.unit(imgs).permute(0, 2, 3, 1), percentiles=not model.pixels.as_bytes)
    draw_maps(names, pictures.numpy(), maps, args.out, note)
    print(f"Wrote {args.out}: {len(names)} pictures, {maps.heads.shape[1]} heads of block {layer}, and rollout")
