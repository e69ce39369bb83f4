"""Tar shards in the WebDataset format, read at random: an image is one pread at a place that the index gives.

DALI's own reader goes through shards from start to end and shuffles inside of a buffer, so which image comes when
depends on what came before it. Here order, crop, flip and mask of an image are functions of (seed, epoch, place in the
epoch), as for files: hence a global shuffle, an exact resume in the middle of an epoch, and any number of ranks. The
files are the standard ones, which DALI's reader and others read as well.
"""

import os
import re
import warnings
from pathlib import Path
from threading import Lock

import numpy as np

from mae_fast.data.sources import packed, tar, tar_index
from mae_fast.data.sources.folder import ARRAYS, EXTENSIONS, is_image

OPEN = 512  # descriptors kept; the tars beyond are opened for each read
LARGEST = 2**30  # bytes of one image: an index can claim any number
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4")


class Shards:
    """Images in NAME.tar, by the indexes NAME.idx. labels: from KEY.cls, class numbers as text; classes: from
    mae_fast.json or classes.txt, else the numbers.

    checksums: uint32 (N,), crc32 of each image file, None where `mae-fast data pack` did not write the shards.
    """

    holds = "bytes"

    def __init__(self, root: Path, description: packed.Packed | None = None):
        """description: what mae_fast.json says, of a folder that we packed."""
        self.root = root
        self._tars = [path.name for path in sorted(root.glob("*.tar"))]
        if description is not None:
            self._tars = sorted(name for name in description.files if name.endswith(".tar"))
        found, classes, missing = [], [], 0
        for number, name in enumerate(self._tars):
            for parts in tar_index.load(root / name):
                image = _image_of(parts)
                if image is None:
                    missing += 1
                    continue
                found.append((number, image.offset, image.size))
                classes.append(next(((number, p.offset, p.size) for p in parts if p.ext.lower() == "cls"), None))
        if not found:
            raise FileNotFoundError(f"{root}: no images in its {len(self._tars)} tar files; check the path")
        if missing:
            warnings.warn(f"{root}: {missing} samples hold no image and are not used", stacklevel=3)
        self._tar, self._offset, self._size = np.array(found, np.int64).T.copy()
        self._agreed = np.zeros(len(found), bool)  # whose header was seen to say what the index says
        self._files: dict[int, int] = {}
        self._lock = Lock()
        self.checksums = None
        if description is None:
            self.labels, self.classes = self._read_classes(classes)
            return
        self.classes = description.classes
        records = packed.records(root, packed.SHARDS, self.classes)
        if len(records) != len(self):
            raise ValueError(f"{root}: {len(self)} images, {packed.RECORDS} has {len(records)}; pack the data again")
        self.labels, self.checksums = records["label"].astype(np.int64), records["crc32"].copy()

    def __len__(self) -> int:
        return len(self._size)

    def name(self, index: int) -> str:
        path, offset = self.root / self._tars[self._tar[index]], int(self._offset[index])
        try:
            head = tar.parse(self._read(int(self._tar[index]), offset - tar.BLOCK, tar.BLOCK))
        except (OSError, ValueError):
            return f"{path}: byte {offset}"
        return f"{path}: {tar.printable(head.name)}"

    def encoded(self, index: int) -> bytes:
        """The image's file. Raises ValueError or OSError with a reason where the tar is not as the index says."""
        size = int(self._size[index])
        if size > LARGEST:
            raise ValueError(f"too large: {size} bytes in the index, at most {LARGEST} are read")
        head = 0 if self._agreed[index] else tar.BLOCK
        content = self._read(int(self._tar[index]), int(self._offset[index]) - head, head + size)
        if len(content) != head + size:
            raise ValueError(f"truncated: the tar ends {head + size - len(content)} bytes before the image does")
        if head and tar.parse(content[:head])[1:] not in ((size, b"0"), (size, b"\0"), (size, b"7")):
            raise ValueError("damaged: the index says otherwise than the tar; delete the index, and it is made again")
        self._agreed[index] = True
        return content[head:]

    def disagreements(self) -> list[tuple[str, str]]:
        """(tar, reason) for each whose headers do not say what its index says: `mae-fast data check`."""
        wrong = []
        for number, name in enumerate(self._tars):
            here = self._tar == number
            try:
                images = [_image_of(parts) for parts in tar_index.from_headers(self.root / name)]
            except (OSError, ValueError) as error:
                wrong.append((str(self.root / name), str(error).removeprefix(f"{self.root / name}: ")))
                continue
            said = list(zip(self._offset[here].tolist(), self._size[here].tolist(), strict=True))
            if said != [(image.offset, image.size) for image in images if image]:
                index = Path(name).with_suffix(tar_index.SUFFIX)
                wrong.append(
                    (str(self.root / name), f"damaged: not what {index} says; delete that, and it is made again")
                )
        return wrong

    def _read(self, number: int, offset: int, size: int) -> bytes:
        """pread moves no file position: threads, and processes that were forked, share the descriptors."""
        file = self._files.get(number)
        if file is not None:
            return os.pread(file, size, offset)
        with self._lock:
            if number not in self._files and len(self._files) < OPEN:
                self._files[number] = os.open(self.root / self._tars[number], os.O_RDONLY)
        if (file := self._files.get(number)) is not None:
            return os.pread(file, size, offset)
        file = os.open(self.root / self._tars[number], os.O_RDONLY)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)

    def _read_classes(self, places: list[tuple[int, int, int] | None]) -> tuple[np.ndarray, list[str]]:
        """Class numbers from the tars, -1 everywhere where there are none."""
        without = places.count(None)
        if without == len(places):
            return np.full(len(places), -1), []
        if without:
            raise ValueError(f"{self.root}: {without} of {len(places)} images have no .cls beside them, others have")
        labels = np.array([self._class_number(*place) for place in places])
        names = self.root / "classes.txt"
        classes = names.read_text().splitlines() if names.is_file() else [str(n) for n in range(labels.max() + 1)]
        if labels.max() >= len(classes):
            raise ValueError(f"{names}: {len(classes)} names, and a class number {labels.max()} in the tars")
        return labels, classes

    def _class_number(self, number: int, offset: int, size: int) -> int:
        text = self._read(number, offset, min(size, 32)).strip()
        if size > 32 or not re.fullmatch(rb"\d{1,6}", text):
            path = self.root / self._tars[number]
            raise ValueError(f"{path}: the .cls at byte {offset} is no class number: {tar.printable(text)}")
        return int(text)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_files": {}, "_lock": None}  # another process opens its own

    def __setstate__(self, state: dict) -> None:
        self.__dict__ |= state | {"_lock": Lock()}

    def __del__(self):
        for file in getattr(self, "_files", {}).values():
            os.close(file)


def is_shards(folder: Path) -> bool:
    """Whether a folder holds tars, and neither folders nor images beside them. ValueError where all are compressed."""
    with os.scandir(folder) as entries:
        names = [(entry.name.lower(), entry.is_dir()) for entry in entries if not entry.name.startswith(".")]
    if any(is_folder or name.endswith(EXTENSIONS) for name, is_folder in names):
        return False
    if any(name.endswith(".tar") for name, _ in names):
        return True
    for name, _ in names:
        if name.endswith(COMPRESSED):
            raise ValueError(
                f"{folder / name}: compressed, so no image can be read without those before it; unpack it to a plain "
                ".tar, or to a folder for mae-fast data pack"
            )
    return False


def _image_of(parts: list[tar_index.Part]) -> tar_index.Part | None:
    """The image of a sample; an npy array is one where there is no other."""
    parts = [(part, f".{part.ext}") for part in parts]
    return next((part for kinds in (EXTENSIONS, ARRAYS) for part, name in parts if is_image(name, kinds)), None)
