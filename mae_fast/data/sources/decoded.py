"""Pictures decoded once and kept as uint8 pixels in one file, which the operating system maps into memory.

For data sets that fit there: no decoding, but 3 bytes a pixel, ten times a JPEG file.
"""

from pathlib import Path

import numpy as np

from mae_fast.data.sources import packed

PIXELS = "pixels.bin"


class Decoded:
    """What `mae-fast data pack --decoded` wrote. checksums: uint32 (N,), crc32 of each picture's pixels."""

    holds = "pixels"

    def __init__(self, root: Path, description: packed.Packed):
        self.root, self.classes = root, description.classes
        found = packed.records(root, packed.DECODED, self.classes)
        self.labels, self.checksums = found["label"].astype(np.int64), found["crc32"].copy()
        self._offset, self._shape = found["offset"], np.stack([found["height"], found["width"]], 1).astype(np.int64)
        sizes, total = 3 * self._shape.astype(float).prod(1), (root / PIXELS).stat().st_size  # floats do not overflow
        if self._shape.min() < 1 or self._offset.min() < 0 or (self._offset + sizes).max() > total:
            raise ValueError(f"{root / packed.RECORDS}: pictures outside of {PIXELS}; pack the data again")
        self._pixels = None

    def __len__(self) -> int:
        return len(self.labels)

    def name(self, index: int) -> str:
        return f"{self.root / PIXELS} image {index}"

    def encoded(self, index: int) -> np.ndarray:
        if self._pixels is None:
            self._pixels = np.memmap(self.root / PIXELS, np.uint8, "r").view(np.ndarray)
        start, (height, width) = int(self._offset[index]), self._shape[index].tolist()
        return self._pixels[start : start + 3 * height * width].reshape(height, width, 3)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_pixels": None}  # mapped again, not copied, by a process that it is sent to
