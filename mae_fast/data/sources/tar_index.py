"""Where the samples of a tar shard lie, in the format of DALI's wds2idx: read, checked, made, written.

The first line is `v1.2 COUNT`; then a line a sample with `ext offset size name` for each of its files. A sample is
consecutive members whose names agree up to the first dot, as in WebDataset. An index is not trusted: its numbers are
held to the size of the tar, and every read of an image to the header in the tar itself.
"""

import contextlib
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from mae_fast.data.sources.tar import BLOCK, members

SUFFIX = ".idx"


class Part(NamedTuple):
    """A file of a sample. offset: of its first byte in the tar; size: bytes."""

    ext: str
    offset: int
    size: int
    name: str


def load(tar: Path) -> list[list[Part]]:
    """The samples of a tar by the index beside it, which is made, and kept where it can be, if there is none."""
    index = tar.with_suffix(SUFFIX)
    if index.is_file():
        return read(index, tar.stat().st_size)
    samples = from_headers(tar)
    with contextlib.suppress(OSError):  # a folder that is not ours: the headers are read again next time
        write(samples, index)
    return samples


def from_headers(tar: Path) -> list[list[Part]]:
    """Read all headers of a tar. Files whose name begins with a dot belong to no sample."""
    samples, last = [], None
    file = os.open(tar, os.O_RDONLY)
    try:
        for member in members(file, tar):
            dot = member.name.find(".", member.name.rfind("/") + 1)
            base, ext = (member.name[:dot], member.name[dot + 1 :]) if dot >= 0 else (member.name, "")
            if not base or base.endswith("/"):
                continue
            if base != last:
                samples.append([])
            last = base
            samples[-1].append(Part(ext, member.offset, member.size, member.name))
    finally:
        os.close(file)
    return samples


def write(samples: list[list[Part]], path: Path) -> None:
    """Write an index, whole or not at all; none where a name has a space, which the format cannot hold.

    Several processes may do so at once, so the temporary file is each one's own.
    """
    if any(not part.ext or re.search(r"\s", part.name) for parts in samples for part in parts):
        return
    lines = [f"v1.2 {len(samples)}", *(" ".join(f"{e} {o} {s} {n}" for e, o, s, n in parts) for parts in samples)]
    handle, partial = tempfile.mkstemp(".partial", f".{path.name}-", path.parent)
    try:
        with open(handle, "w") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def read(path: Path, tar_size: int) -> list[list[Part]]:
    """The samples of an index. Raises ValueError naming it where it is none, or cannot be of a tar of that size."""
    advice = "delete it, and it is made again"
    try:
        head, *lines = path.read_text(errors="backslashreplace").splitlines() or [""]
    except MemoryError:
        raise ValueError(f"{path}: too large for an index; {advice}") from None
    kind = re.fullmatch(r"v1\.([12]) (\d{1,12})", head.strip())
    if kind is None:
        raise ValueError(f"{path}: expected `v1.2 COUNT` in its first line; {advice}")
    if len(lines) != int(kind[2]):
        raise ValueError(f"{path}: {len(lines)} samples, its first line says {kind[2]}; {advice}")
    samples, end, width = [], 0, 4 if kind[1] == "2" else 3  # v1.1 has no names
    for number, line in enumerate(lines, 2):
        words = line.split()
        numbers = words[1::width] + words[2::width]
        digits, longest = "".join(numbers), max(map(len, numbers), default=0)  # one check a line: there are millions
        if len(words) % width or not (digits.isascii() and digits.isdigit()) or longest > 18:
            raise ValueError(f"{path}: line {number} is not `ext offset size name`; {advice}")
        parts = []
        for at in range(0, len(words), width):
            offset, size = int(words[at + 1]), int(words[at + 2])
            if offset % BLOCK or offset < end + BLOCK or offset + size > tar_size:
                raise ValueError(
                    f"{path}: line {number}: byte {offset} to {offset + size} is no place for a file in a tar of "
                    f"{tar_size} bytes whose last file ended at {end}; {advice}"
                )
            end = offset + size
            parts.append(Part(words[at], offset, size, words[at + 3] if width == 4 else ""))
        samples.append(parts)
    return samples
