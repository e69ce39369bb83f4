"""A small folder of real photographs to try things on, from inside the scikit-image wheel; nothing is downloaded."""

import importlib.util
import os
from pathlib import Path

from PIL import Image

from mae_fast.atomic import write_atomic

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
TILE, STRIDE, QUALITY = 300, 80, 90  # pixels, pixels, JPEG quality


def write_sample_photos(folder: str | os.PathLike) -> list[Path]:
    """Write folder/train/<name>/*.jpg, overlapping 300-pixel squares, and folder/val/<name>.jpg, whole photographs.

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
        for top in _starts(photo.height):
            for left in _starts(photo.width):
                tile = photo.crop((left, top, left + TILE, top + TILE))
                paths.append(_write(tile, Path(folder, "train", name, f"{top:04d}_{left:04d}.jpg")))
    return sorted(paths)


def _starts(length: int) -> list[int]:
    """Where tiles begin along a side: every STRIDE pixels or a little less, the last one ends at the edge."""
    steps = -(-(length - TILE) // STRIDE)
    return [round(step * (length - TILE) / steps) for step in range(steps + 1)] if steps else [0]


def _write(image: Image.Image, path: Path) -> Path:
    if not path.exists():
        write_atomic(path, lambda file: image.save(file, "JPEG", quality=QUALITY))
    return path
