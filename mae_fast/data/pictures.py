"""Which pixels the files of a source hold, what their statistics are, and a few of them opened for a model."""

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mae_fast.data.arrays import resized
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source
from mae_fast.data.sources.array_file import array_header
from mae_fast.data.sources.folder import ARRAYS, EXTENSIONS, is_image
from mae_fast.data.sources.image_file import Header, explain
from mae_fast.data.sources.reader import Reader, reader_of
from mae_fast.pixels import Pixels

LOOKED_AT = 64  # headers that tell what a source holds


def pixels_of(
    source: Source, channels: int | None = 3, value_range: tuple[float, float] | None = None,
    mean: tuple[float, ...] | None = None, std: tuple[float, ...] | None = None,
) -> Pixels:  # fmt: skip
    """What a run on a source reads: 8-bit RGB where nobody says otherwise, else values of the type of most files.

    channels: None for as many as most files have. Raises ValueError where no file that is looked at can be read.
    """
    if channels == 3 and value_range is None:  # as ever, with no look at the files
        return Pixels(mean=mean, std=std)
    seen = Counter((header.channels, header.type) for header in _look(source) if not header.fault)
    if not seen:
        first = next(header.fault for header in _look(source))
        raise ValueError(f"data_path: not one good image; the first, {source.name(0)}: {first}")
    (most, kind), _ = seen.most_common(1)[0]
    if channels is None and kind == "uint8":
        most = {2: 1, 4: 3}.get(most, most)
    return Pixels(most if channels is None else channels, kind, value_range, mean, std)


def _look(source: Source) -> list[Header]:
    places = np.linspace(0, len(source) - 1, min(LOOKED_AT, len(source))).astype(int).tolist()
    with ThreadPoolExecutor(available_cpus()) as pool:
        return list(pool.map(lambda index: _header(source, index), places))


def _header(source: Source, index: int) -> Header:
    try:
        return array_header(source.encoded(index))
    except Exception as error:  # of an archive: not as its index says, an error of the disk
        return Header(fault=explain(error))


def measure(
    source: Source, pixels: Pixels, progress: Callable[[int, int], None] | None = None
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """-> mean and standard deviation of each channel over all pixels, in parts of the value range, and how many
    pictures were left out as bad.

    progress: called with (files done, files in all). Raises ValueError where no picture is good.
    """
    reader, bad = reader_of(pixels), 0
    count, total, squares = 0, np.zeros(pixels.channels), np.zeros(pixels.channels)
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(source), LOOKED_AT):
            chunk = range(start, min(start + LOOKED_AT, len(source)))
            for sums in pool.map(lambda index: _sums(source, index, reader, pixels), chunk):
                if sums is None:
                    bad += 1
                    continue
                count, total, squares = count + sums[0], total + sums[1], squares + sums[2]
            if progress is not None:
                progress(chunk.stop, len(source))
    if not count:
        raise ValueError(f"path: not one good image of {pixels}; mae-fast data check lists the reasons")
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std[std < 1e-6] = 1  # a channel of one value has nothing to scale
    return tuple(mean.tolist()), tuple(std.tolist()), bad


def _sums(source: Source, index: int, reader: Reader, pixels: Pixels):
    """-> pixels, sums and sums of squares of a picture's channels, float64; None where it is bad."""
    header = reader.header_of(source, index)
    if header.fault or header.unusual:
        return None
    try:
        image = reader.decode(source.encoded(index))
    except Exception:  # a damaged file may raise anything at all
        return None
    low, high = pixels.value_range
    values = (_planes(image).reshape(pixels.channels, -1).astype(np.float64) - low) / (high - low)
    return values.shape[1], values.sum(1), np.square(values).sum(1)


def _planes(image: Image.Image | np.ndarray) -> np.ndarray:
    """(C, H, W)."""
    if isinstance(image, np.ndarray):
        return image
    return np.asarray(image).reshape(image.height, image.width, -1).transpose(2, 0, 1)


def list_pictures(path: str | Path) -> list[Path]:
    """The pictures below a folder, sorted, npy arrays where there are no others; or the one file."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; check the path")
    if not path.is_dir():
        return [path]
    for extensions in (EXTENSIONS, ARRAYS):
        if files := sorted(file for file in path.rglob("*") if is_image(file.name, extensions)):
            return files
    raise ValueError(f"images: no pictures in {path} (looked for {', '.join((*EXTENSIONS, *ARRAYS))})")


def open_pictures(files: list[Path], pixels: Pixels, size: tuple[int, int]) -> Tensor:
    """The centres of picture files, scaled to (height, width): a batch for a model of these pixels (model.pixels).

    Files that are not as pixels says are converted where that is possible. Raises ValueError naming a file and why not.
    """
    reader, images = reader_of(pixels), []
    for file in files:
        header = reader.header(str(file))
        if header.fault:
            raise ValueError(f"{file}: {header.fault}")
        try:
            image = reader.decode(str(file))
        except Exception as error:  # a damaged file may raise anything at all inside Pillow
            raise ValueError(f"{file}: {explain(error)}") from None
        images.append(_centre(image, size))
    batch = torch.stack(images)
    return batch.permute(0, 2, 3, 1).contiguous() if pixels.mode else pixels.batch(batch)


def _centre(image: Image.Image | np.ndarray, size: tuple[int, int]) -> Tensor:
    """(C, *size): the largest centred part of the shape of size, scaled."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(_planes(ImageOps.fit(image, size[::-1], Image.Resampling.BICUBIC)).copy())
    (height, width), (h, w) = image.shape[1:], size
    tall, wide = min(height, round(width * h / w)), min(width, round(height * w / h))
    top, left = (height - tall) // 2, (width - wide) // 2
    return resized(image[:, top : top + max(1, tall), left : left + max(1, wide)], size)
