"""Pictures that are not 8-bit RGB, made from scikit-image's: X-ray-like of 16 bits, tiles of 12 bands, arrays."""

from functools import cache

import numpy as np
import tifffile
from PIL import Image
from skimage import data

SIDES = (40, 56)  # height, width


def xray(number: int) -> np.ndarray:
    """uint16 (H, W): a part of the photograph of the Moon, with all 16 bits in use."""
    return _cut("moon", number).astype(np.uint16) * 250 + np.arange(SIDES[1], dtype=np.uint16)


def tile(number: int) -> np.ndarray:
    """uint16 (12, H, W): a part of the photograph of a retina, its colours and nine mixtures of them, as a satellite's
    12 bits."""
    colours = _cut("retina", number).transpose(2, 0, 1).astype(np.float64)
    mixed = [colours * share + np.roll(colours, 1, 0) * (1 - share) for share in (0.75, 0.5, 0.25)]
    return (np.concatenate([colours, *mixed]) * 16).astype(np.uint16)


@cache
def _photo(name: str) -> np.ndarray:
    return getattr(data, name)()


def _cut(name: str, number: int) -> np.ndarray:
    photo = _photo(name)
    top, left = np.random.default_rng(number).integers(0, np.array(photo.shape[:2]) - SIDES)
    return photo[top : top + SIDES[0], left : left + SIDES[1]]


def write_xrays(folder, count: int = 12):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(xray(number)).save(folder / f"{number:02d}.png")
    return folder


def write_tiles(folder, count: int = 12):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        tifffile.imwrite(folder / f"{number:02d}.tif", tile(number), compression="zlib", predictor=True)
    return folder


def write_arrays(folder, count: int = 12):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        np.save(folder / f"{number:02d}.npy", tile(number)[:5].astype(np.float32) / 4080)
    return folder
