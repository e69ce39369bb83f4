"""Where images come from. A source is a file here, and a line in `open_source`."""

import os
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from mae_fast.data.sources import packed
from mae_fast.data.sources.cifar import Cifar, find_cifar
from mae_fast.data.sources.decoded import Decoded
from mae_fast.data.sources.folder import ImageFolder
from mae_fast.data.sources.shards import Shards, is_shards


class Source(Protocol):
    """Images and their labels, by index. Opened once a process: what it holds is copied to loader workers."""

    holds: Literal["path", "bytes", "pixels"]  # what `encoded` gives
    labels: np.ndarray  # int64 (N,), -1 where an image has none
    classes: list[str]  # names of the labels, empty where there are none

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Where the image comes from, for messages: a path, or a path and a number."""

    def encoded(self, index: int) -> str | bytes | np.ndarray:
        """The path of its file, the content of its file, or its pixels, uint8 (H, W, 3).

        Raises ValueError or OSError with a reason alone where there is none; a path is given whatever is there.
        """


def open_source(path: str | os.PathLike, split: str = "train") -> Source:
    """The images at path: class folders, a flat folder, tar shards, a cache of decoded pictures, or CIFAR-10/100 files
    (the folder itself or its parent).

    split: "train" or "val"; the folder of that name inside path where there is one. For "val" of image files there
    must be one. Raises FileNotFoundError, NotADirectoryError or ValueError that name the path and what to do.
    """
    if split not in ("train", "val"):
        raise ValueError(f"split {split!r}: expected train or val")
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such folder; check the path")
    if not path.is_dir():
        raise NotADirectoryError(f"{path}: is a file; give the folder that holds the images")
    if cifar := find_cifar(path):
        return Cifar(*cifar, split)
    if (path / split).is_dir():
        path = path / split
    elif split == "val":
        raise FileNotFoundError(f"{path}: no folder val in it")
    if description := packed.read(path):
        return (Decoded if description.holds == "decoded" else Shards)(path, description)
    return Shards(path) if is_shards(path) else ImageFolder(path)
