"""A folder of image files, with or without a folder for each class."""

import os
import warnings
from pathlib import Path

import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's
ARRAYS = (".npy",)  # pictures too where there are none of these: beside photographs they are features, masks, ...


class ImageFolder:
    """Image files below root, sorted; class folders as torchvision's ImageFolder, or a flat folder with no labels.
    Where there are none, npy arrays.

    labels: int64 (N,), -1 where the folder is flat; classes: folder names. Files are listed, not opened.
    """

    holds = "path"

    def __init__(self, root: Path):
        self.root = root
        with os.scandir(root) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
        found, self.classes = _found(root, folders, EXTENSIONS)
        if not found:
            found, self.classes = _found(root, folders, ARRAYS)
        if not found:
            looked = " ".join((*EXTENSIONS, *ARRAYS))
            raise FileNotFoundError(
                f"{root}: no images (looked for {looked}, in it and below its folders); check the path"
            )
        self.labels = np.array([label for _, label in found], np.int64)
        # one long string: a million Python strings cost memory in every worker, as reference counts break sharing
        encoded = [os.fsencode(path) for path, _ in found]
        self._text = b"".join(encoded)
        self._ends = np.cumsum([len(path) for path in encoded])

    def __len__(self) -> int:
        return len(self.labels)

    def encoded(self, index: int) -> str:
        """The file's path."""
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self._text[start : self._ends[index]]))

    def name(self, index: int) -> str:
        return self.encoded(index)


def _found(root: Path, folders: list[str], extensions: tuple[str, ...]) -> tuple[list[tuple[str, int]], list[str]]:
    """-> (path relative to root, label) of each file of these extensions, and the names of the classes."""
    found = [(path, label) for label, name in enumerate(folders) for path in _images_below(root, name, extensions)]
    loose = sorted(entry.name for entry in os.scandir(root) if entry.is_file() and is_image(entry.name, extensions))
    if not found:
        return [(name, -1) for name in loose], []
    if loose:
        warnings.warn(
            f"{root}: {len(loose)} images beside the class folders are not used, {loose[0]} the first", stacklevel=4
        )
    return found, folders


def is_image(name: str, extensions: tuple[str, ...] = EXTENSIONS) -> bool:
    return name.lower().endswith(extensions)


def _images_below(root: Path, name: str, extensions: tuple[str, ...]) -> list[str]:
    """Paths relative to root of the images in folder `name`, in torchvision's order."""
    return [
        os.path.relpath(os.path.join(folder, file), root)
        for folder, _, files in sorted(os.walk(root / name, followlinks=True))
        for file in sorted(files)
        if is_image(file, extensions)
    ]
