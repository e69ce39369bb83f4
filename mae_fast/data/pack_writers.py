"""Tar shards and the file of decoded pixels, written. Each file is on the disk before the next begins."""

import os
import tarfile
import zlib
from pathlib import Path

import numpy as np

from mae_fast.data.sources import packed, tar_index
from mae_fast.data.sources.decoded import PIXELS
from mae_fast.data.sources.tar import BLOCK


class _Writer:
    """A folder that is filled with pictures. `finish` writes what makes it whole: records, and the description last."""

    holds: str
    kind: np.dtype

    def __init__(self, folder: Path, classes: list[str]):
        self.folder, self.classes = folder, classes
        self._records: list[tuple] = []
        self._sizes: dict[str, int] = {}
        self._file = None

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self) -> None:
        self._close_file()
        self._open_file(packed.RECORDS)
        self._file.write(np.array(self._records, self.kind).tobytes())
        self._close_file()
        description = packed.Packed(self.holds, self.classes, dict(self._sizes))
        self._open_file(packed.DESCRIPTION)
        self._file.write(packed.dump(description))
        self._close_file()

    def _open_file(self, name: str) -> None:
        self._file = open(self.folder / name, "wb")  # noqa: SIM115, closed by _close_file or __exit__

    def _close_file(self) -> None:
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._sizes[Path(self._file.name).name] = self._file.tell()
        self._file.close()
        self._file = None


class ShardWriter(_Writer):
    """shard-000000.tar and so on, each up to `limit` bytes, with indexes. KEY.jpg, and KEY.cls where there are classes.

    Members belong to nobody and have no time, so the same pictures make the same bytes.
    """

    holds, kind = "shards", packed.SHARDS

    def __init__(self, folder: Path, classes: list[str], limit: int):
        super().__init__(folder, classes)
        self._limit, self._count = limit, 0
        self._samples: list[list[tar_index.Part]] = []

    def add(self, content: bytes, ext: str, label: int, key: str) -> None:
        files = [(ext, content)] + ([("cls", str(label).encode())] if label >= 0 else [])
        room = sum(2 * BLOCK + len(part) for _, part in files) + 2 * BLOCK
        if self._file is not None and self._file.tell() + room > self._limit:
            self._close_shard()
        if self._file is None:
            self._open_file(f"shard-{self._count:06d}.tar")
        self._samples.append([self._member(ext, part, key) for ext, part in files])
        self._records.append((label, zlib.crc32(content)))

    def finish(self) -> None:
        self._close_shard()
        super().finish()

    def _member(self, ext: str, content: bytes, key: str) -> tar_index.Part:
        info = tarfile.TarInfo(f"{key}.{ext}")
        info.size, info.mode = len(content), 0o644
        self._file.write(info.tobuf(tarfile.USTAR_FORMAT))
        part = tar_index.Part(ext, self._file.tell(), len(content), info.name)
        self._file.write(content + bytes(-len(content) % BLOCK))
        return part

    def _close_shard(self) -> None:
        if self._file is None:
            return
        path = Path(self._file.name)
        self._file.write(bytes(2 * BLOCK))
        self._close_file()
        tar_index.write(self._samples, path.with_suffix(tar_index.SUFFIX))
        self._samples, self._count = [], self._count + 1


class CacheWriter(_Writer):
    """The file of pixels, one picture after the other, with the place and size of each in the records."""

    holds, kind = "decoded", packed.DECODED

    def __init__(self, folder: Path, classes: list[str], _limit: int):
        super().__init__(folder, classes)
        self._open_file(PIXELS)

    def add(self, pixels: np.ndarray, _ext: str, label: int, _key: str) -> None:
        content = np.ascontiguousarray(pixels)
        self._records.append((label, zlib.crc32(content), self._file.tell(), *content.shape[:2]))
        self._file.write(content.data)
