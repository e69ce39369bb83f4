"""Where a measurement came from: the machine, the software, the state of the code, the command."""

import platform
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import torch

# What decides how fast a matrix product can be on x86-64.
INSTRUCTION_SETS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def cpu() -> tuple[str, list[str]]:
    """-> (the processor's name, which of INSTRUCTION_SETS it has), as the kernel tells; else only its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine(), []
    facts = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = facts.get("flags", "").split()
    return facts.get("model name", platform.machine()), [name for name in INSTRUCTION_SETS if name in flags]


def cpu_wait() -> float | None:
    """Seconds so far in which some task of this machine waited for a core: a lot of it spoils a measurement.

    None where the kernel does not tell (Linux does, as pressure stall information).
    """
    try:
        some = Path("/proc/pressure/cpu").read_text().splitlines()[0]
    except OSError:
        return None
    return int(some.rpartition("total=")[2]) / 1e6


def provenance(device: str, module: str) -> dict:
    """Facts to print above a table and to keep in its file. module: what `python -m` ran."""
    git = partial(subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True)
    name, instruction_sets = cpu()
    facts = {"device": torch.cuda.get_device_name()} if device == "cuda" else {}
    return facts | {
        "cpu": name,
        "instruction sets": instruction_sets,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git(["git", "rev-parse", "HEAD"]).stdout.strip(),
        "clean": not git(["git", "status", "--porcelain"]).stdout.strip(),
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }
