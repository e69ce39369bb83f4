"""CIFAR-10 and CIFAR-100 from their original files, binary or Python (Krizhevsky 2009)."""

import pickle
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Layout:
    """How one of the four distributions stores its pictures."""

    folder: str
    files: dict[str, list[str]]  # split -> files, in order
    names: str  # the file with the class names
    classes: int
    label_bytes: int = 0  # binary: bytes before the pixels, the last one is the label
    label_key: str = ""  # python
    names_key: str = ""  # python


LAYOUTS = [
    Layout(
        "cifar-10-batches-bin",
        {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "val": ["test_batch.bin"]},
        "batches.meta.txt",
        10,
        label_bytes=1,
    ),
    Layout(
        "cifar-100-binary", {"train": ["train.bin"], "val": ["test.bin"]}, "fine_label_names.txt", 100, label_bytes=2
    ),
    Layout(
        "cifar-10-batches-py",
        {"train": [f"data_batch_{i}" for i in range(1, 6)], "val": ["test_batch"]},
        "batches.meta",
        10,
        label_key="labels",
        names_key="label_names",
    ),
    Layout(
        "cifar-100-python",
        {"train": ["train"], "val": ["test"]},
        "meta",
        100,
        label_key="fine_labels",
        names_key="fine_label_names",
    ),
]


class Cifar:
    """images: uint8 (N, 32, 32, 3); labels: int64 (N,); classes: names, or numbers as text where there are no names."""

    holds = "pixels"

    def __init__(self, folder: Path, layout: Layout, split: str):
        missing = [name for name in layout.files[split] if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder}: CIFAR file {missing[0]} is missing; unpack the archive again")
        read = _read_binary if layout.label_bytes else _read_python
        parts = [read(folder / name, layout) for name in layout.files[split]]
        self.root = folder
        self.images = np.concatenate([images for images, _ in parts])
        self.labels = np.concatenate([labels for _, labels in parts])
        self.classes = _class_names(folder, layout)
        self._places = [(name, len(labels)) for name, (_, labels) in zip(layout.files[split], parts, strict=True)]

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        for file, count in self._places:
            if index < count:
                return f"{self.root / file} image {index}"
            index -= count
        raise IndexError(index)

    def encoded(self, index: int) -> np.ndarray:
        return self.images[index]


def find_cifar(path: Path) -> tuple[Path, Layout] | None:
    """The CIFAR folder at path or directly inside it. ValueError where several are inside."""
    for layout in LAYOUTS:
        if any((path / name).is_file() for files in layout.files.values() for name in files):
            return path, layout
    inside = [(path / layout.folder, layout) for layout in LAYOUTS if (path / layout.folder).is_dir()]
    if len(inside) > 1:
        names = " and ".join(folder.name for folder, _ in inside)
        raise ValueError(f"{path}: holds {names}; give the path of one of them")
    return inside[0] if inside else None


def _read_binary(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    content, record = np.fromfile(path, np.uint8), layout.label_bytes + PIXELS
    if len(content) == 0 or len(content) % record:
        raise ValueError(
            f"{path}: {len(content)} bytes is not a whole number of CIFAR records of {record} bytes; "
            "the file is incomplete or not CIFAR, download it again"
        )
    records = content.reshape(-1, record)
    labels = records[:, layout.label_bytes - 1].astype(np.int64)
    return _checked(path, layout, records[:, layout.label_bytes :], labels)


def _read_python(path: Path, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    content = _unpickle(path)
    try:
        pixels, labels = np.asarray(content["data"]), np.asarray(content[layout.label_key], np.int64)
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{path}: no 'data' and '{layout.label_key}' in it, so not a CIFAR file") from None
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), PIXELS):
        expected = f"uint8 ({len(labels)}, {PIXELS})"
        raise ValueError(f"{path}: expected {expected} pixels, found {pixels.dtype} {pixels.shape}")
    return _checked(path, layout, pixels, labels)


def _checked(path: Path, layout: Layout, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= layout.classes:
        raise ValueError(f"{path}: labels outside 0..{layout.classes - 1}, so not a file of {layout.folder}")
    planes = pixels.reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels


def _class_names(folder: Path, layout: Layout) -> list[str]:
    path = folder / layout.names
    if not path.is_file():
        return [str(number) for number in range(layout.classes)]
    if layout.names_key:
        return list(_unpickle(path)[layout.names_key])
    return path.read_text().split()


class _Unpickler(pickle.Unpickler):
    """Allows what a CIFAR file needs, numpy arrays, and nothing that could run code."""

    ALLOWED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes, as Python 3 writes them in protocol 2
    }

    def find_class(self, module: str, name: str):
        if (module, name) not in self.ALLOWED:
            raise PermissionError(f"{module}.{name}")
        return self.ALLOWED[module, name]


def _count_memos(file: BinaryIO) -> None:
    """ValueError where a pickle numbers what it remembers otherwise than one by one.

    Before Python 3.14 five bytes, `r` and a number, make the unpickler fill a table of so many places: 64 GiB.
    """
    remembered = 0
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            if argument > remembered:
                raise ValueError(f"place {argument} of a table with {remembered}")
            remembered += argument == remembered


def _unpickle(path: Path) -> dict:
    try:
        with open(path, "rb") as file:
            _count_memos(file)
            file.seek(0)
            content = _Unpickler(file, encoding="latin1").load()
    except PermissionError as error:
        if error.errno is not None:  # the file system's own
            raise
        raise ValueError(f"{path}: refused, it asks to load {error}, which no CIFAR file needs") from None
    except Exception as error:  # damaged pickles raise anything
        raise ValueError(f"{path}: damaged, or not a CIFAR file ({error})") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a dict, found {type(content).__name__}, so not a CIFAR file")
    return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
