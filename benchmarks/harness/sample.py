"""JPEG files like ImageNet's, 500 x 375 pixels, cut from scikit-image's photographs, where no folder was named."""

import importlib.util
import os
import random
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from mae_fast.data.loader import available_cpus
from mae_fast.data.sources.photos import PHOTOS

SIZE, QUALITY = (500, 375), 90


@contextmanager
def write_jpegs(count: int, distinct: int | None = None) -> Iterator[list[Path]]:
    """Paths of `count` files in a folder that is removed afterwards. ImportError where scikit-image is missing.

    distinct: so many pictures under all those names, by hard links: a long epoch at the price of a short one.
    """
    found = importlib.util.find_spec("skimage")
    if found is None:
        raise ImportError("the sample photographs are part of scikit-image: pip install scikit-image, or give --images")
    photos = [Image.open(Path(found.origin).parent / "data" / file).convert("RGB") for file in PHOTOS.values()]
    draw = random.Random(0)
    with tempfile.TemporaryDirectory(prefix="mae_fast-") as folder:
        paths = [Path(folder, f"{i:05d}.jpg") for i in range(count)]
        distinct = min(distinct or count, count)
        for i, path in enumerate(paths[:distinct]):
            photo = photos[i % len(photos)]
            share = draw.uniform(0.6, 1.0) * min(photo.width / SIZE[0], photo.height / SIZE[1])
            width, height = share * SIZE[0], share * SIZE[1]
            left, top = draw.uniform(0, photo.width - width), draw.uniform(0, photo.height - height)
            box = (left, top, left + width, top + height)
            photo.resize(SIZE, Image.Resampling.BICUBIC, box).save(path, quality=QUALITY)
        for i, path in enumerate(paths[distinct:]):
            os.link(paths[i % distinct], path)
        yield paths


@contextmanager
def shrunk(paths: list[Path], side: int) -> Iterator[list[Path]]:
    """The same pictures as JPEG files whose shorter side is `side` pixels, in a folder that is removed afterwards.

    Files that are links to one picture are encoded once and linked again; a smaller picture keeps its size.
    """
    with tempfile.TemporaryDirectory(prefix="mae_fast-") as folder:
        first: dict[tuple[int, int], Path] = {}  # by device and inode
        targets = [Path(folder, f"{i:08d}.jpg") for i in range(len(paths))]
        todo = []
        for path, target in zip(paths, targets, strict=True):
            status = path.stat()
            original = first.setdefault((status.st_dev, status.st_ino), target)
            todo.append((path, target, original))

        def encode(job: tuple[Path, Path, Path]) -> None:
            path, target, _ = job
            image = Image.open(path).convert("RGB")
            scale = min(1, side / min(image.size))
            size = tuple(round(length * scale) for length in image.size)
            image.resize(size, Image.Resampling.BICUBIC).save(target, "JPEG", quality=QUALITY)

        with ThreadPoolExecutor(available_cpus()) as pool:
            list(pool.map(encode, [job for job in todo if job[1] is job[2]]))
        for _, target, original in todo:
            if target is not original:
                os.link(original, target)
        yield targets
