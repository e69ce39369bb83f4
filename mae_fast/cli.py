"""mae-fast: the command line. Each command is a few lines that call what the package offers."""

import argparse
import logging
import os
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

from mae_fast import pretrain_args
from mae_fast.recipe import positive

POSITIONAL = ("source", "out", "path", "folder", "logs")  # arguments that are no flags, but --out of reconstruct


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s")
    logging.getLogger("mae_fast").setLevel(logging.INFO)  # such as which attention was chosen
    parser = argparse.ArgumentParser(prog="mae-fast", description="Pretrain Masked Autoencoders, fast.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_pretrain(commands)
    add_reconstruct(commands)
    add_convert(commands)
    add_data(commands)
    add_parity(commands)
    commands.add_parser("bench", help="measure beside the peers and against the machine's limit", add_help=False)
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["bench"]:  # its own parser is in benchmarks/, which only a clone has
        return bench(argv[1:])
    args = parser.parse_args(argv)
    args.words = argv
    try:
        if getattr(args, "config", None):
            commands.choices["pretrain"].set_defaults(**pretrain_args.read_config(args.config))
            args = parser.parse_args(argv)
            args.words = argv
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"mae-fast {args.command}: {name_flag(error, args)}", file=sys.stderr)
        return 1


def name_flag(error: Exception, args: argparse.Namespace) -> str:
    """The error's message; if it begins with a path, led by the argument that gave that path or a folder above it."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    # The path itself or one below it was refused, or a folder above it, which was to be made.
    given = [
        (str(Path(path)), name)
        for name, value in vars(args).items()
        for path in (value if isinstance(value, list) else [value])
        if name != "words" and isinstance(path, str | Path) and str(path)
    ]
    refused = text.split(": ")[0]
    of_text = [
        (path, name) for path, name in given if f"{refused}/".startswith(f"{path}/") or path.startswith(f"{refused}/")
    ]
    if not of_text:
        return text
    _, name = max(of_text, key=lambda pair: len(pair[0]))
    is_flag = name not in POSITIONAL or any(word.startswith(f"--{name}") for word in args.words)
    return f"{'--' * is_flag}{name}: {text}"


def add_pretrain(commands) -> None:
    parser = commands.add_parser("pretrain", help="train a Masked Autoencoder on a folder of images")
    pretrain_args.add_arguments(parser)

    def run(args) -> int:
        from mae_fast.interrupt import Interrupted
        from mae_fast.recipe import SETTINGS
        from mae_fast.train import Diverged, pretrain

        pretrain_args.check(args)
        flags = argparse.Namespace(**{name: getattr(args, name) for name in SETTINGS})
        try:
            pretrain(flags)
        except Interrupted as stop:
            if stop.is_main:
                command = stop.checkpoint and pretrain_args.resume_command(args.words, stop.checkpoint)
                print(f"{stop.reason}. To go on: {command}" if command else stop, file=sys.stderr)
            return stop.exit_code
        except Diverged as error:
            print(f"mae-fast pretrain: {error}", file=sys.stderr)
            return 1
        return 0

    parser.set_defaults(run=run)


def add_reconstruct(commands) -> None:
    parser = commands.add_parser("reconstruct", help="draw what a checkpoint makes of masked images")
    parser.add_argument("--checkpoint", required=True, help="official .pth, Hugging Face directory or checkpoint-N.pth")
    parser.add_argument("--images", required=True, help="a folder of pictures, or one")
    parser.add_argument("--out", required=True, help="the PNG to write")
    parser.add_argument("--mask_ratio", type=float, default=0.75)
    parser.add_argument("--limit", type=positive, default=8, help="at most so many pictures of a folder")
    parser.add_argument("--seed", type=int, default=0, help="of the mask")
    parser.add_argument("--norm_pix_loss", action="store_true", default=None, help="where the checkpoint does not tell")

    def run(args) -> None:
        import torch

        from mae_fast.checkpoint import load_pretrained
        from mae_fast.visualize import draw, load_images, reconstruct

        overrides = {"norm_pix_loss": True} if args.norm_pix_loss else {}
        model = load_pretrained(args.checkpoint, **overrides).eval()
        names, imgs = load_images(args.images, model.patch_embed.img_size, model.in_chans, args.limit)
        torch.manual_seed(args.seed)
        result = reconstruct(model, imgs, args.mask_ratio)
        note = f"{Path(args.checkpoint).name}, {args.mask_ratio:.0%} masked, loss {result.loss:.4f}"
        if model.norm_pix_loss:
            note += "; normalised predictions shown with each patch's true mean and variance"
        draw(names, result, args.out, note)
        print(f"Wrote {args.out}: {len(names)} pictures, loss {result.loss:.4f} at {args.mask_ratio:.0%} masked")

    parser.set_defaults(run=run)


def add_convert(commands) -> None:
    parser = commands.add_parser("convert", help="write a checkpoint in the layout of another codebase")
    parser.add_argument("source", metavar="IN", help="a checkpoint of any layout, or a name on the Hugging Face hub")
    parser.add_argument("out", metavar="OUT", help="a .pth or .safetensors file; for hf a folder")
    parser.add_argument("--to", required=True, choices=["official", "hf", "timm", "mae_fast"])
    parser.add_argument(
        "--encoder_only", action="store_true", help="leave out the decoder, and the head of a classifier"
    )
    parser.add_argument("--img_size", type=positive, help="interpolate the positions for images of so many pixels")
    parser.add_argument("--pool", default="token", choices=["token", "avg"], help="global_pool of the timm model")
    parser.add_argument("--num_heads", type=int, help="where the checkpoint does not tell")
    parser.add_argument("--decoder_num_heads", type=int, help="where the checkpoint does not tell")
    parser.add_argument("--force", action="store_true", help="write over what is there")

    def run(args) -> None:
        from mae_fast.convert import convert

        heads = {name: value for name in ("num_heads", "decoder_num_heads") if (value := getattr(args, name))}
        options = {"encoder_only": args.encoder_only, "img_size": args.img_size, "pool": args.pool, "force": args.force}
        for note in convert(args.source, args.out, args.to, **options, **heads):
            print(f"Note: {note}")
        print(f"Wrote {args.out}")

    parser.set_defaults(run=run)


def add_data(commands) -> None:
    parser = commands.add_parser("data", help="check a folder of images, or make one of sample photographs")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    check = actions.add_parser("check", help="list every file that training would skip or stop at")
    check.add_argument("path")

    def run_check(args) -> int:
        from mae_fast.data import check, open_source

        source = open_source(args.path)
        with tqdm(total=len(source), unit=" images", leave=False) as bar:
            bad = check(source, progress=lambda done, total: bar.update(done - bar.n))
        for name, reason in bad:
            print(f"{name}: {reason}")
        kinds = ", ".join(f"{count} {reason}" for reason, count in Counter(r.split(":")[0] for _, r in bad).items())
        print(f"{len(source)} images, {len(bad)} bad" + (f" ({kinds})" if kinds else ""))
        return 1 if bad else 0

    check.set_defaults(run=run_check)

    photos = actions.add_parser("photos", help="write scikit-image's photographs as a small JPEG data set")
    photos.add_argument("folder")

    def run_photos(args) -> None:
        from mae_fast.data import write_sample_photos

        paths = write_sample_photos(args.folder)
        print(f"Wrote {len(paths)} JPEG files under {args.folder}")

    photos.set_defaults(run=run_photos)


def add_parity(commands) -> None:
    from mae_fast.parity import command

    command.add_arguments(commands.add_parser("parity", help="hold every op and a whole model to float64, here"))


def bench(argv: list[str]) -> int:
    """Run benchmarks/ of the clone that this package was imported from."""
    root = Path(__file__).resolve().parents[1]
    if not (root / "benchmarks" / "__main__.py").is_file():
        print(
            "mae-fast bench: the benchmarks are not part of the installed package; clone the repository and "
            "`pip install --no-build-isolation -e .` there",
            file=sys.stderr,
        )
        return 1
    sys.path.insert(0, str(root))
    from benchmarks.__main__ import main as run

    try:
        return run(argv)
    except (ValueError, OSError, ImportError) as error:
        print(f"mae-fast bench: {error}", file=sys.stderr)
        return 1
