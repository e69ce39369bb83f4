"""A mask of one's own, from a file: a number for each patch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def load_mask(path: str | Path) -> Tensor:
    """A .npy array or a picture of (rows, columns) -> float64; ValueError or OSError naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"mask: {path}: no such file; give random, block, grid, or an existing .npy or picture")
    try:
        if path.suffix == ".npy":
            numbers = np.load(path, allow_pickle=False)
        else:
            from PIL import Image

            numbers = np.asarray(Image.open(path).convert("F"))
        mask = torch.from_numpy(np.asarray(numbers, dtype=np.float64))
    except Exception as error:  # a damaged file may raise anything at all
        raise ValueError(f"mask: {path}: cannot be read as an array or a picture ({error})") from None
    if mask.dim() != 2 or not mask.isfinite().all():
        raise ValueError(f"mask: {path}: expected finite numbers of (rows, columns) patches, got {tuple(mask.shape)}")
    return mask
