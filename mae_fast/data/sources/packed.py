"""What `mae-fast data pack` writes beside the pictures: which files there are, the classes, a record a picture.

mae_fast.json is written last. Both files may come from strangers: sizes, types and names are held to what they must be.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

DESCRIPTION, RECORDS = "mae_fast.json", "records.bin"
LARGEST = 2**24  # bytes of a description: the names of 21,000 classes take a thirtieth
# crc32: of the file in the shard, or of the pixels; offset, height, width: in a cache of decoded pictures
SHARDS = np.dtype([("label", "<i4"), ("crc32", "<u4")])
DECODED = np.dtype([("label", "<i4"), ("crc32", "<u4"), ("offset", "<i8"), ("height", "<i4"), ("width", "<i4")])


@dataclass(frozen=True)
class Packed:
    """holds: "shards" or "decoded"; files: {name: bytes} of all files in the folder that count."""

    holds: str
    classes: list[str]
    files: dict[str, int]


def dump(description: Packed) -> bytes:
    return json.dumps(asdict(description), indent=1).encode()


def read(folder: Path) -> Packed | None:
    """The description of a folder that we packed, None where there is none.

    Raises ValueError naming the file that is missing, of another size, or not what we write.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        return None
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: {path.stat().st_size} bytes, at most {LARGEST} are read; pack the data again")
    try:
        found = json.loads(path.read_text())
        packed = Packed(found["holds"], found["classes"], found["files"])
        fits = packed.holds in ("shards", "decoded") and all(isinstance(name, str) for name in packed.classes)
        fits = fits and isinstance(packed.classes, list) and packed.files.keys() >= {RECORDS}
        fits = fits and all(Path(name).name == name for name in packed.files)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise ValueError(f"{path}: not as mae-fast data pack writes it; pack the data again")
    for name, size in packed.files.items():
        there = (folder / name).stat().st_size if (folder / name).is_file() else None
        if there is None or there != size:
            what = "missing" if there is None else f"{there} bytes, {DESCRIPTION} says {size}"
            raise ValueError(f"{folder / name}: {what}; copy it again, or pack the data again")
    return packed


def records(folder: Path, kind: np.dtype, classes: list[str]) -> np.ndarray:
    """The record of each picture. ValueError where labels are out of range or the file has no whole number of them."""
    path = folder / RECORDS
    if path.stat().st_size % kind.itemsize or not path.stat().st_size:
        raise ValueError(f"{path}: not a whole number of records of {kind.itemsize} bytes; pack the data again")
    found = np.fromfile(path, kind)
    labels = found["label"]
    if labels.max() >= len(classes) or labels.min() < (0 if classes else -1):
        raise ValueError(f"{path}: labels outside of its {len(classes)} classes; pack the data again")
    return found
