"""Files that are either the old one or the new one, whatever happens in between."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch


def write_atomic(path: str | os.PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Let `write` fill a temporary file beside path, bring it to the disk, then rename it over path.

    A kill at any moment leaves the previous file, whole; an exception (a full disk, Ctrl-C) also takes the temporary
    file away.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


def save_atomic(obj, path: str | os.PathLike) -> None:
    """torch.save, atomically. Raises the OSError of a disk that does not take it, which torch.save hides behind its own
    RuntimeError."""
    try:
        write_atomic(path, lambda file: torch.save(obj, file))
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
