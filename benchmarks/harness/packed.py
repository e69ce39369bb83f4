"""Tar shards and the cache of decoded pixels, made of a benchmark's files in a temporary folder."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from mae_fast.data import How, open_source, pack
from mae_fast.data.sources import Source

DISTINCT = 2**12  # pictures packed at most: decoded they take half a megabyte each


class Again:
    """The pictures of a source under `count` names, one after the other and again from the first."""

    def __init__(self, source: Source, count: int):
        self.source, self.holds, self.classes, self._count = source, source.holds, source.classes, count
        self.labels = np.resize(source.labels, count)

    def __len__(self) -> int:
        return self._count

    def name(self, index: int) -> str:
        return self.source.name(index % len(self.source))

    def encoded(self, index: int) -> bytes | np.ndarray:
        return self.source.encoded(index % len(self.source))


@contextmanager
def packed(files: list[Path], decoded: bool) -> Iterator[Source]:
    """As many pictures as files, in a folder that is removed afterwards; links to one picture are packed once."""
    first = {}
    for path in files:
        status = path.stat()
        first.setdefault((status.st_dev, status.st_ino), path)
    with tempfile.TemporaryDirectory(prefix="mae_fast-") as folder:
        (Path(folder) / "in").mkdir()
        for number, path in enumerate(list(first.values())[:DISTINCT]):
            os.symlink(path.absolute(), Path(folder, "in", f"{number:08d}{path.suffix}"))
        pack(Path(folder, "in"), Path(folder, "out"), how=How(decoded=decoded))
        yield Again(open_source(Path(folder, "out")), len(files))
