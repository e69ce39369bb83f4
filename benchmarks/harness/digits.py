"""scikit-learn's digits as a data set of PNG class folders: real, labelled, and inside of a wheel."""

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 32  # pixels; the originals have 8, of 17 shades


def write_digits(folder: Path, train: int | None = None, val: int | None = None) -> None:
    """Write folder/train/CLASS/*.png and folder/val/CLASS/*.png, RGB, enlarged bicubically to 32 pixels.

    Of each class the last fifth is val; train, val: at most so many of a class. 1797 pictures in all, in the order of
    scikit-learn, whose later ones were written by other people than its first.
    """
    from sklearn.datasets import load_digits

    pictures, labels = load_digits(return_X_y=True)
    for number in range(10):
        own = pictures[labels == number].reshape(-1, 8, 8)
        start = len(own) * 4 // 5
        for split, some in {"train": own[:start][:train], "val": own[start:][:val]}.items():
            here = folder / split / str(number)
            here.mkdir(parents=True, exist_ok=True)
            for place, picture in enumerate(some):
                image = Image.fromarray((picture * 255 / 16).round().astype(np.uint8)).convert("RGB")
                image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
                    folder / split / str(number) / f"{place:03d}.png"
                )
