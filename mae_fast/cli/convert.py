"""`mae-fast convert`: a checkpoint in the layout of another codebase."""

import argparse

from mae_fast.cli.arguments import positive
from mae_fast.files.convert import LAYOUTS, POOLS, convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("source", metavar="IN", help="a checkpoint of any layout, or a name on the Hugging Face hub")
    add("out", metavar="OUT", help="a .pth or .safetensors file; for hf a folder")
    add("--to", required=True, choices=LAYOUTS)
    add("--encoder_only", action="store_true", help="leave out the decoder, and the head of a classifier")
    add("--img_size", type=positive, nargs="+", help="interpolate the positions for images of so many pixels, or H W")
    add("--pool", default="token", choices=POOLS, help="global_pool of the timm model")
    add("--num_heads", type=int, help="where the checkpoint does not tell")
    add("--decoder_num_heads", type=int, help="where the checkpoint does not tell")
    add("--force", action="store_true", help="write over what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    heads = {name: value for name in ("num_heads", "decoder_num_heads") if (value := getattr(args, name))}
    size = args.img_size and (args.img_size * 2 if len(args.img_size) == 1 else args.img_size)
    options = {"encoder_only": args.encoder_only, "img_size": size, "pool": args.pool, "force": args.force}
    for note in convert(args.source, args.out, args.to, **options, **heads):
        print(f"Note: {note}")
    print(f"Wrote {args.out}")
