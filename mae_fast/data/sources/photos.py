"""A small folder of real photographs to try things on, from inside the scikit-image wheel; nothing is downloaded."""

import importlib.util
import math
import os
from pathlib import Path

from PIL import Image

from mae_fast.files.atomic import write_atomic

# photographs only: no microscope or medical pictures, text pages, test patterns or drawings
PHOTOS = {
    "astronaut": "astronaut.png",
    "brick": "brick.png",
    "camera": "camera.png",
    "cat": "chelsea.png",
    "clock": "clock_motion.png",
    "coffee": "coffee.png",
    "coins": "coins.png",
    "galaxies": "hubble_deep_field.jpg",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "moon": "moon.png",
    "motorcycle": "motorcycle_left.png",
    "rocket": "rocket.jpg",
}
TILE, STRIDE = 7 / 8, 1 / 16  # of a photograph's short side
SIZE, QUALITY = 256, 90  # pixels of a tile as written, JPEG quality


def write_sample_photos(folder: str | os.PathLike) -> list[Path]:
    """Write folder/train/<name>/*.jpg, overlapping squares of 256 pixels, and folder/val/<name>.jpg, whole photographs.

    Returns all paths. Files that are already there are left alone. Raises ImportError where scikit-image is missing.
    """
    found = importlib.util.find_spec("skimage")
    if found is None:
        raise ImportError("the sample photographs are part of scikit-image: pip install scikit-image")
    paths = []
    for name, file in PHOTOS.items():
        with Image.open(Path(found.origin).parent / "data" / file) as opened:
            photo = opened.convert("L" if opened.mode == "L" else "RGB")
        paths.append(_write(photo, Path(folder, "val", f"{name}.jpg")))
        short = min(photo.size)
        tile = round(TILE * short)
        for top in _starts(photo.height, tile, short):
            for left in _starts(photo.width, tile, short):
                square = photo.resize((SIZE, SIZE), Image.Resampling.LANCZOS, (left, top, left + tile, top + tile))
                paths.append(_write(square, Path(folder, "train", name, f"{top:04d}_{left:04d}.jpg")))
    return sorted(paths)


def _starts(length: int, tile: int, short: int) -> list[int]:
    """Where tiles begin along a side: every STRIDE or a little less, the last one ends at the edge."""
    steps = math.ceil((length - tile) / (STRIDE * short))
    return [round(step * (length - tile) / steps) for step in range(steps + 1)]


def _write(image: Image.Image, path: Path) -> Path:
    if not path.exists():
        write_atomic(path, lambda file: image.save(file, "JPEG", quality=QUALITY))
    return path
