"""One writer a folder, and no lock that outlives its holder."""

import os
import signal
import subprocess
import sys

import pytest

from mae_fast.files.lock import FolderInUse, FolderLock

HOLD = """
import os, sys, time
from mae_fast.files.lock import FolderLock
lock = FolderLock("output_dir")
lock.take(sys.argv[1])
child = os.fork()
if child:
    print(child, flush=True)
time.sleep(1000)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of tmp_path, and its child, which lives on."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    child = int(process.stdout.readline())
    yield process
    process.kill()
    os.kill(child, signal.SIGKILL)
    process.wait()


def test_the_second_is_told_who_has_it(holder, tmp_path):
    lock = FolderLock("output_dir")
    said = rf"output_dir: .* is in use by process {holder.pid} on \S+, started 20\d\d-.*: -c "
    with pytest.raises(FolderInUse, match=said):
        lock.take(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    holder.kill()
    holder.wait()
    lock.take(tmp_path)  # though the child of the killed one is there
    assert f"process {os.getpid()} on " in (tmp_path / ".lock").read_text()
    lock.close()


def test_in_one_process_too(tmp_path):
    folder = tmp_path / "new" / "folder"
    first, second = FolderLock("output_dir"), FolderLock("output_dir")
    first.take(folder)
    with pytest.raises(FolderInUse):
        second.take(folder)
    first.close()
    assert not folder.exists()  # nothing was written there
    second.take(folder)
    (folder / "log.txt").touch()
    second.close()
    assert (folder / ".lock").exists()
