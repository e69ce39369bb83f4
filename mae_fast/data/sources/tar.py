"""The headers of a tar file: what its members are, and where their bytes lie. POSIX ustar and pax, GNU long names.

Nothing is ever extracted: a member's name is a name in messages and no path, so "..", "/etc" and links lead nowhere.
What is no regular file is refused all the same, as whoever packed it meant something else than a data set. Not Python's
tarfile: it ends in silence at a header that is damaged or cut, and reads whatever size a header claims.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = 512
LONGEST = 2**16  # bytes of a long name or a pax header; a header may claim any number
REFUSED = {
    b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe",
    b"S": "a sparse file", b"M": "a part of a file in several archives",
}  # fmt: skip
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """name: printable; offset: of its first byte in the archive; size: bytes."""

    name: str
    offset: int
    size: int


class Head(NamedTuple):
    """What one header block says. kind: the type flag."""

    name: bytes
    size: int
    kind: bytes


def members(file: int, path: Path) -> Iterator[Member]:
    """The regular files in the archive behind a descriptor, in order; directories are passed over.

    Raises ValueError that begins with path: no tar, compressed, truncated, damaged, or a member that is no regular
    file.
    """
    total, at, name, size = os.fstat(file).st_size, 0, None, None
    while True:
        block = os.pread(file, BLOCK, at)
        if len(block) < BLOCK:
            raise ValueError(f"{path}: truncated: {total} bytes with no end-of-archive block; copy it again")
        if not block.strip(b"\0"):
            return
        try:
            head = parse(block)
        except ValueError as error:
            reason = _no_tar(block) if at == 0 else f"{error} at byte {at}; copy it again"
            raise ValueError(f"{path}: {reason}") from None
        shown = printable(name or head.name)
        extended = head.kind in (b"x", b"L")
        size = head.size if size is None or extended else size
        offset, after = at + BLOCK, at + BLOCK + -(-size // BLOCK) * BLOCK
        if offset + size > total:
            raise ValueError(f"{path}: truncated: {shown} ends at byte {offset + size} of {total}; copy it again")
        at = after
        if extended:
            if size > LONGEST:
                raise ValueError(f"{path}: a header of {size} bytes before byte {after}; at most {LONGEST} are read")
            content, size = os.pread(file, size, offset), None
            if head.kind == b"L":
                name = content.rstrip(b"\0")
                continue
            records = _pax(content, path)
            if any(key.startswith(b"GNU.sparse") for key in records):
                raise ValueError(f"{path}: {shown} is a sparse file; pack regular files only")
            name, size = records.get(b"path", name), _decimal(records.get(b"size"), path)
            continue
        if head.kind in REFUSED:
            raise ValueError(f"{path}: {shown} is {REFUSED[head.kind]}; pack regular files only")
        if head.kind in (b"0", b"\0", b"7"):
            yield Member(shown, offset, size)
        elif head.kind not in (b"5", b"g", b"K"):
            raise ValueError(f"{path}: {shown} is of an unknown kind, {head.kind!r}; pack regular files only")
        name = size = None


def parse(block: bytes) -> Head:
    """A header block -> what it says. ValueError, a reason alone, where its checksum or a number is wrong."""
    if len(block) != BLOCK:
        raise ValueError("truncated: no whole tar header")
    if _number(block[148:156]) != sum(block[:148]) + 8 * ord(" ") + sum(block[156:]):
        raise ValueError("damaged: a tar header whose checksum is wrong")
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    posix = block[257:263] == b"ustar\0"  # GNU keeps times where POSIX has the prefix
    return Head(prefix + b"/" + name if prefix and posix else name, _number(block[124:136]), block[156:157])


def printable(name: bytes) -> str:
    """A name for messages and indexes: what is not UTF-8 or would move the cursor of a terminal is escaped."""
    text = name.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # GNU: binary, for 8 GiB and more
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not re.fullmatch(rb"[0-7]*", digits):
        raise ValueError("damaged: a tar header with a number that is none")
    return int(digits or b"0", 8)


def _pax(content: bytes, path: Path) -> dict[bytes, bytes]:
    """Records of "LENGTH key=value\\n"."""
    records = {}
    while content:
        length = re.match(rb"(\d{1,6}) ", content)
        record = content[length.end() : int(length[1])] if length else b""
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n"):
            raise ValueError(f"{path}: damaged: a pax header that is none; copy it again")
        records[key] = value[:-1]
        content = content[int(length[1]) :]
    return records


def _decimal(text: bytes | None, path: Path) -> int | None:
    if text is not None and not re.fullmatch(rb"\d{1,19}", text):
        raise ValueError(f"{path}: damaged: a pax header with a size that is none; copy it again")
    return None if text is None else int(text)


def _no_tar(block: bytes) -> str:
    kind = next((kind for start, kind in COMPRESSED.items() if block.startswith(start)), None)
    if kind is None:
        return "not a tar file"
    return f"compressed ({kind}), so no image can be read without those before it; unpack it to a plain .tar"
