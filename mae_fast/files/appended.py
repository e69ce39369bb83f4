"""JSON lines at the end of a file, each whole or not there."""

import errno
import json
import os
from pathlib import Path


class Appended:
    """A file that grows by lines. What a disk does not take waits for the next write."""

    def __init__(self, path: Path):
        self.path, self.waiting = path, ""
        if path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size:
            self.waiting = "\n"  # a kill cut the last line short; it must not spoil the next one

    def add(self, entry: dict) -> None:
        self.waiting += json.dumps(entry) + "\n"

    def write(self) -> None:
        """Append what waits. Raises OSError, and leaves no half line, where the disk does not take it."""
        if not self.waiting:
            return
        with open(self.path, "ab", buffering=0) as file:
            end, content = file.tell(), self.waiting.encode()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise
        self.waiting = ""


def read_lines(path: Path) -> list[dict]:
    """The entries of such a file, oldest first, none where there is no file; a line that a kill cut short is left
    out."""
    entries = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            entries.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            continue
    return [entry for entry in entries if isinstance(entry, dict)]
