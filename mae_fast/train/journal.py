"""output_dir/run.jsonl: what happened to a run and log.txt has no room for, an event a line. For `mae-fast report`.

    {"event": "start", "time": ..., "epoch": 0.0, "versions": {...}, "settings": {...}, ...}     a process began
    {"event": "epoch", "time": ..., "epoch": 0, "seconds": ..., "images": ..., ...}              an epoch is complete
    {"event": "fault", "time": ..., "text": ...}                                                 the run went on
    {"event": "bad_images", "time": ..., "count": ..., "name": ..., "reason": ...}               so far; the last one
    {"event": "pictures", "time": ..., "epoch": 0, "file": ...}                                  reconstructions
    {"event": "end", "time": ..., "text": ..., "complete": true}                                 the process ended

Epochs count from 0, as in log.txt; times are seconds since 1970. Unlike log.txt it keeps what was computed twice.
"""

import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from mae_fast.files.appended import Appended, read_lines

NAME = "run.jsonl"
PACKAGES = ("mae_fast", "torch", "triton", "nvidia-dali-cuda130", "pillow", "numpy")


class Journal:
    """The file of one run's folder. again: an earlier process's events stay; otherwise the file begins anew."""

    def __init__(self, folder: Path, again: bool):
        self.path = folder / NAME
        if not again:
            self.path.unlink(missing_ok=True)
        self._file = Appended(self.path)

    def add(self, event: str, **facts) -> None:
        """Note an event, now. Raises OSError where the disk does not take it; it is then written with the next."""
        self._file.add({"event": event, "time": time.time(), **facts})
        self._file.write()


def read_journal(folder: Path) -> list[dict]:
    """The events of a run, oldest first; none where its folder holds no journal."""
    return [entry for entry in read_lines(folder / NAME) if "event" in entry]


def versions() -> dict[str, str]:
    """{what: which} of all that numbers and speed depend on."""
    found = {"Python": platform.python_version(), "system": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # not installed, or mae_fast run from a clone
            continue
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    return found


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads > 1)}, {torch.backends.cpu.get_cpu_capability()}"
