"""mae-fast: the command line. A file a command, each a few lines that call what the package offers."""

import argparse
import logging
import sys
from importlib import import_module

from mae_fast.cli.arguments import name_flag

# The module of that name has add_arguments(parser), which sets run(args) -> exit code or None.
COMMANDS = {
    "pretrain": "train a Masked Autoencoder on a folder of images",
    "finetune": "train a classifier on a pretrained encoder, all weights of it",
    "linprobe": "train one linear layer on the features of a pretrained encoder",
    "reconstruct": "draw what a checkpoint makes of masked images",
    "knn": "judge an encoder by nearest neighbours or logistic regression of its features",
    "features": "write the features of every picture of a data set",
    "attention": "draw where the encoder of a checkpoint looks",
    "report": "write a run as one HTML page: curves, reconstructions, settings, faults",
    "convert": "write a checkpoint in the layout of another codebase",
    "data": "check a folder of images, pack it into shards, or make one of sample photographs",
    "parity": "hold every op and a whole model to float64, here",
    "bench": "measure beside the peers and against the machine's limit",
}
# Shown at the end of each command's --help.
EXAMPLES = {
    "pretrain": "--data_path IMAGES --model mae_vit_base_patch16 --norm_pix_loss --batch_size 256 --epochs 800",
    "finetune": "--data_path IMAGES --finetune checkpoint-799.pth --epochs 100 --mixup 0.8 --cutmix 1.0",
    "linprobe": "--data_path IMAGES --finetune checkpoint-799.pth --batch_size 512",
    "knn": "--checkpoint checkpoint-799.pth --data_path IMAGES",
    "features": "--checkpoint checkpoint-799.pth --data_path IMAGES --out features.npz --pool mean",
    "attention": "--checkpoint checkpoint-799.pth --images IMAGES/val --out attention.png",
    "reconstruct": "--checkpoint checkpoint-799.pth --images IMAGES/val --out reconstructions.png",
    "report": "output_dir",
    "convert": "checkpoint-799.pth vit.safetensors --to timm --pool avg",
    "data": "check IMAGES",
    "parity": "--preset base",
}


class Console(logging.Handler):
    """The library's messages: on standard output, warnings on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr if record.levelno >= logging.WARNING else sys.stdout, flush=True)


def show_messages() -> None:
    logger = logging.getLogger("mae_fast")
    logger.setLevel(logging.INFO)
    logger.handlers = [Console()]


def parse(argv: list[str]) -> argparse.Namespace:
    """A command line -> its arguments, and `run`, which takes them. Leaves Python for --help and for a wrong one."""
    parser = argparse.ArgumentParser(prog="mae-fast", description="Pretrain Masked Autoencoders, fast.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", add_help=name != "bench",
            epilog=f"example: mae-fast {name} {EXAMPLES[name]}" if name in EXAMPLES else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,  # an example stays on its line
        )  # fmt: skip
        import_module(f"mae_fast.cli.{name}").add_arguments(command)
    args, rest = parser.parse_known_args(argv)
    if rest and args.command != "bench":  # which has a parser of its own
        commands.choices[args.command].error(f"unrecognized arguments: {' '.join(rest)}")
    args.words = argv
    return args


def main(argv: list[str] | None = None) -> int:
    show_messages()
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return args.run(args) or 0
    except (ValueError, OSError, ImportError) as error:
        print(f"mae-fast {args.command}: {name_flag(error, args)}", file=sys.stderr)
        return 1
