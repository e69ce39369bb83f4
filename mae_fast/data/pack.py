"""`mae-fast data pack`: a data set as tar shards, or as one file of decoded pixels. The same input, the same bytes.

Everything is written in a hidden folder beside the target, which takes its name at the very end: an interrupted pack
leaves nothing that could be opened.
"""

import io
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mae_fast.data.loader import available_cpus
from mae_fast.data.pack_writers import CacheWriter, ShardWriter
from mae_fast.data.sources import Source, open_source
from mae_fast.data.sources.array_file import array_header, read_array
from mae_fast.data.sources.cifar import find_cifar
from mae_fast.data.sources.image_file import decode_as, explain, read_header

CHUNK = 64  # pictures under way at once
QUALITY = 95  # of JPEG files that are encoded again
KEPT = {
    "JPEG": "jpg",
    "MPO": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "BMP": "bmp",
    "TIFF": "tif",
    "PPM": "ppm",
    "NPY": "npy",
}


@dataclass(frozen=True)
class How:
    """side: pixels of the shorter side, to which larger pictures are shrunk, None = files as they are; decoded: pixels
    in place of files; convert: CMYK, palette and 16-bit pictures are converted where they are not kept as files.
    """

    side: int | None = None
    decoded: bool = False
    convert: bool = False


def pack(
    path: str | os.PathLike, out: str | os.PathLike, *, shard_size: int = 256, how: How | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[int, list[tuple[str, str]]]:  # fmt: skip
    """Write the images at path, in their order, into the new folder out; with train and val where path has both.

    shard_size: MiB of a shard, at most, unless one image is larger. progress: called with (images done, images in all).
    Returns the number of images written, and (name, reason) of those that are left out because training would not take
    them. Raises ValueError or OSError, with nothing left behind.
    """
    out, how = Path(out), how or How()
    for name, value, least in (("shard_size", shard_size, 1), ("side", how.side or 16, 16)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: is there and not empty; give a new folder")
    sources = {split: open_source(path, split or "train") for split in _splits(Path(path))}
    total, done, written, bad = sum(map(len, sources.values())), 0, 0, []
    target = out.resolve()
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a pack that was killed
    try:
        for split, source in sources.items():
            before = written
            (partial / split).mkdir(parents=True)
            make = CacheWriter if how.decoded else ShardWriter
            with make(partial / split, source.classes, shard_size * 2**20) as writer:
                for index, image in enumerate(_prepared(source, how)):
                    if isinstance(image, str):
                        bad.append((source.name(index), image))
                    else:
                        writer.add(*image, int(source.labels[index]), _key(source, index))
                        written += 1
                    done += 1
                    if progress is not None:
                        progress(done, total)
                if written == before:
                    reason = "it has no good image; mae-fast data check lists the reasons"
                    raise ValueError(f"{Path(path) / split}: {reason}")
                writer.finish()
            _sync(partial / split)
        os.replace(partial, target)
        _sync(target.parent)
    except OSError as error:
        if error.filename is not None and not str(error.filename).startswith(str(partial)):
            raise
        text = f"{out}: {error.strerror or error}; nothing was written: free some space, or pack with a smaller side"
        raise OSError(text) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written, bad


def _splits(path: Path) -> list[str]:
    both = (path / "train").is_dir() and (path / "val").is_dir()
    return ["train", "val"] if both or (path.is_dir() and find_cifar(path)) else [""]


def _sync(folder: Path) -> None:
    """Bring the names in a folder to the disk, as fsync does the content of files."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _prepared(source: Source, how: How):
    """What is to be written of each image, or the reason (a text) why it is not, in order."""
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(source), CHUNK):
            chunk = range(start, min(start + CHUNK, len(source)))
            yield from pool.map(lambda index: _prepare(source, index, how), chunk)


def _prepare(source: Source, index: int, how: How) -> tuple[bytes | np.ndarray, str] | str:
    """(content of a file, its extension) or (pixels, ""), or why not. All is decoded once: bad files stay out."""
    try:
        image = source.encoded(index)
        if isinstance(image, str):
            image = Path(image).read_bytes()  # once: what is checked is what is written
        header = read_header(image)
        if header.fault:
            return _as_it_is(image, header.fault, how)
        picture = decode_as(image, "L" if header.channels in (1, 2) and not how.decoded else "RGB")
    except Exception as error:  # a damaged file may raise anything at all inside Pillow
        return explain(error)
    shrink = how.side is not None and min(picture.size) > how.side
    if header.unusual and not how.convert and (shrink or how.decoded):
        return header.unusual
    if shrink:
        scale = how.side / min(picture.size)
        size = [max(1, round(length * scale)) for length in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if how.decoded:
        return np.asarray(picture), ""
    if not shrink and header.kind in KEPT:
        return image, KEPT[header.kind]
    content = io.BytesIO()
    if shrink:
        picture.save(content, "JPEG", quality=QUALITY)
        return content.getvalue(), "jpg"
    picture.save(content, "PNG")  # pixels, and formats that few programs read
    return content.getvalue(), "png"


def _as_it_is(image: bytes | np.ndarray, fault: str, how: How) -> tuple[bytes, str] | str:
    """A file that is no 8-bit photograph, but an array of values: (its content, its extension), or why not."""
    header = array_header(image)
    if header.fault:
        return header.fault if header.fault.startswith("damaged") else fault
    if how.side is not None or how.decoded:
        return f"{fault}; without side and decoded it is packed as it is"
    read_array(image)
    return image, KEPT[header.kind]


def _key(source: Source, index: int) -> str:
    """The number, and what the file was called: no dot, which would end the key, and nothing that is not ASCII."""
    stem = Path(source.name(index).rpartition(": ")[2]).stem
    return f"{index:08d}_{re.sub(r'[^A-Za-z0-9_-]+', '_', stem)[:60]}".rstrip("_")
