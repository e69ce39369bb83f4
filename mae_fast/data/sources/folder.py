"""A folder of image files, with or without a folder for each class."""

import os
import warnings
from pathlib import Path

import numpy as np

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's


class ImageFolder:
    """Image files below root, sorted; class folders as torchvision's ImageFolder, or a flat folder with no labels.

    labels: int64 (N,), -1 where the folder is flat; classes: folder names. Files are listed, not opened.
    """

    holds = "path"

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

    def encoded(self, index: int) -> str:
        """The file's path."""
        start = self._ends[index - 1] if index else 0
        return os.path.join(self.root, os.fsdecode(self._text[start : self._ends[index]]))

    def name(self, index: int) -> str:
        return self.encoded(index)


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
