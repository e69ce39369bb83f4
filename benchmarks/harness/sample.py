"""JPEG files like ImageNet's, 500 x 375 pixels, cut from scikit-image's photographs, where no folder was named."""

import importlib.util
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from mae_fast.data.sources.photos import PHOTOS

SIZE, QUALITY = (500, 375), 90


@contextmanager
def write_jpegs(count: int) -> Iterator[list[Path]]:
    """Paths of `count` files in a folder that is removed afterwards. ImportError where scikit-image is missing."""
    found = importlib.util.find_spec("skimage")
    if found is None:
        raise ImportError("the sample photographs are part of scikit-image: pip install scikit-image, or give --images")
    photos = [Image.open(Path(found.origin).parent / "data" / file).convert("RGB") for file in PHOTOS.values()]
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="mae_fast-") as folder:
        paths = [Path(folder, f"{i:05d}.jpg") for i in range(count)]
        for i, path in enumerate(paths):
            photo = photos[i % len(photos)]
            share = draw.uniform(0.6, 1.0) * min(photo.width / SIZE[0], photo.height / SIZE[1])
            width, height = share * SIZE[0], share * SIZE[1]
            left, top = draw.uniform(0, photo.width - width), draw.uniform(0, photo.height - height)
            box = (left, top, left + width, top + height)
            photo.resize(SIZE, Image.Resampling.BICUBIC, box).save(path, quality=QUALITY)
        yield paths
