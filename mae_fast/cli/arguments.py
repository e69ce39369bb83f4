"""What the commands share: types of flags, and errors that name the flag."""

import argparse
import os
from pathlib import Path

from mae_fast.recipe import Finetune, Linprobe, Pretrain

POSITIONAL = (
    "source",
    "out",
    "path",
    "folder",
    "logs",
    "run_dir",
)  # arguments that are no flags, but --out of reconstruct


RECIPES = {"pretrain": Pretrain, "finetune": Finetune, "linprobe": Linprobe}


def positive(text: str) -> int:
    """The type of a flag that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def numbers(text: str) -> list[int]:
    """The type of a flag that takes several counts, as 1,5,10."""
    return [positive(part) for part in text.split(",")]


def name_flag(error: Exception, args: argparse.Namespace) -> str:
    """The error's message, led by the flag that it is about.

    The library's messages begin with the name of an argument, or with a path: then the flag is the one that gave this
    path or a folder above it.
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{os.fsdecode(error.filename)}: {error.strerror}"
    subject, flags = text.split(":")[0], RECIPES[args.command].settings() if args.command in RECIPES else vars(args)
    if subject in flags and subject not in POSITIONAL:
        return f"--{text}"
    name = _given_by(text.split(": ")[0], args)
    if name is None:
        return text
    is_flag = name not in POSITIONAL or any(word.startswith(f"--{name}") for word in args.words)
    return f"{'--' * is_flag}{name}: {text}"


def _given_by(refused: str, args: argparse.Namespace) -> str | None:
    """The argument whose path was refused, or one above it, or one below it, for which folders were to be made."""
    given = [
        (str(Path(path)), name)
        for name, value in vars(args).items()
        for path in (value if isinstance(value, list) else [value])
        if name != "words" and isinstance(path, str | Path) and str(path)
    ]
    related = [
        (path, name) for path, name in given if f"{refused}/".startswith(f"{path}/") or path.startswith(f"{refused}/")
    ]
    return max(related, key=lambda pair: len(pair[0]))[1] if related else None
