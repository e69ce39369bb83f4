"""Where pictures come from: a folder of image files, or the original CIFAR files."""

import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from mae_fast.data.cifar import Cifar, find_cifar
from mae_fast.data.image_file import Header, decode_rgb, read_header

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


class ImageFolder:
    """Image files below root, sorted; class folders as torchvision's ImageFolder, or a flat folder with no labels.

    labels: int64 (N,), -1 where the folder is flat; classes: folder names. Files are listed, not opened.
    """

    def __init__(self, root: Path):
        self.root = root
        with os.scandir(root) as entries:
            self.classes = sorted(entry.name for entry in entries if entry.is_dir())
        found = [(path, label) for label, name in enumerate(self.classes) for path in _images_below(root, name)]
        loose = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and _is_image(entry.name))
        if not found:
            found, self.classes = [(name, -1) for name in loose], []
        elif loose:
            warnings.warn(
                f"{root}: {len(loose)} images beside the class folders are not used, {loose[0]} the first", stacklevel=3
            )
        if not found:
            raise FileNotFoundError(
                f"{root}: no images (looked for {' '.join(EXTENSIONS)}, in it and below its folders); check the path"
            )
        self.labels = np.array([label for _, label in found], np.int64)
        # one long string: a million Python strings cost memory in every worker, as reference counts break sharing
        encoded = [os.fsencode(path) for path, _ in found]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded])

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self._text[start : self._ends[index]]))

    def name(self, index: int) -> str:
        """The file's path, for messages."""
        return self.path(index)

    def header(self, index: int) -> Header:
        return read_header(self.path(index))

    def decode(self, index: int) -> Image.Image:
        return decode_rgb(self.path(index))


def open_source(path: str | os.PathLike, split: str = "train") -> ImageFolder | Cifar:
    """The pictures at path: class folders, a flat folder, or CIFAR-10/100 files (the folder itself or its parent).

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
    cifar = find_cifar(path)
    if cifar is not None:
        return Cifar(*cifar, split)
    if (path / split).is_dir():
        return ImageFolder(path / split)
    if split == "val":
        raise FileNotFoundError(f"{path}: no folder val in it")
    return ImageFolder(path)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _images_below(root: Path, name: str) -> list[str]:
    """Paths relative to root of the images in folder `name`, in torchvision's order."""
    return [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in sorted(os.walk(root / name, followlinks=True))
        for file in sorted(files)
        if _is_image(file)
    ]
