"""One writer a folder: a lock that the kernel lets go of when its process ends, however it ends."""

import contextlib
import errno
import fcntl
import logging
import os
import shlex
import socket
import sys
import time
from pathlib import Path

logger = logging.getLogger(__name__)
NAME = ".lock"


class FolderInUse(ValueError):
    """Another process writes into the folder; the message names both and the remedy."""


class FolderLock:
    """The right to write into a folder, which one process at a time has. Readers neither ask for it nor notice it.

    The file `.lock` in the folder names who holds it: host, process, start and command. It stays there when the lock
    is gone. On NFS the lock holds among machines as far as the server's locks do; the lock of a machine that is lost
    ends when the server gives it up.
    """

    def __init__(self, argument: str):
        """argument: whose value the folder is, for messages."""
        self.argument = argument
        self._file: int | None = None
        self._made: Path | None = None  # the folder, where it was not there before

    def take(self, folder: str | Path) -> None:
        """Raises FolderInUse at once where another process, or another lock of this one, holds the folder; OSError
        where the folder cannot be written."""
        path = Path(folder) / NAME
        made = not path.parent.exists()
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(file, path)
            os.ftruncate(file, 0)
            os.write(file, f"{describe()}\n".encode())
        except BaseException:
            os.close(file)
            raise
        self._file, self._made = file, path.parent if made else None
        _held.add(file)

    def close(self) -> None:
        """Let go; a folder that came with the lock, and in which nothing else was written, goes with it."""
        if self._file is not None:
            if self._made and [path.name for path in self._made.iterdir()] == [NAME]:
                (self._made / NAME).unlink()
                self._made.rmdir()
            _held.discard(self._file)
            os.close(self._file)
            self._file = None

    def _lock(self, file: int, path: Path) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 4096, 0).decode(errors="replace").strip() or "another process"
            raise FolderInUse(
                f"{self.argument}: {path.parent} is in use by {holder}\nTwo runs would spoil each other's files: give "
                "this one a folder of its own, or end the other first"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            logger.warning("%s: %s: this file system has no locks; see that one run writes here", self.argument, path)


def describe() -> str:
    """This process in words: number, host, start, command."""
    started = time.strftime("%Y-%m-%d %H:%M:%S %z")
    return f"process {os.getpid()} on {socket.gethostname()}, started {started}: {shlex.join(sys.argv)}"


_held: set[int] = set()


def _let_go_in_child() -> None:
    """A forked child, such as a loader's worker, may outlive its parent, and would hold the lock for it."""
    for file in _held:
        with contextlib.suppress(OSError):
            os.close(file)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
