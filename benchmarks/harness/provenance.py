"""Where a measurement came from: the machine, the software, the state of the code, the command."""

import platform
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
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


ROOT = Path(__file__).resolve().parents[2]  # of the clone
WRITTEN = [":!benchmarks/results"]  # by benchmarks
PACKAGES = ["numpy", "triton", "transformers", "timm", "xformers", "nvidia-dali-cuda130", "pillow"]


def provenance(device: str, module: str, argv: list[str] | None = None) -> dict:
    """Facts to print above a table and to keep in its file. module: what `python -m` ran; argv: its arguments."""
    name, instruction_sets = cpu()
    packages = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            packages[package] = version(package)
    return (gpu() if device == "cuda" else {}) | {
        "cpu": name,
        "instruction sets": instruction_sets,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "packages": packages,
        "commit": git("rev-parse", "HEAD") or "unknown",
        # Results that other parts have just written do not count.
        "clean": git("status", "--porcelain", "--", ".", *WRITTEN) == "",
        "command": shlex.join(["python", "-m", module, *(sys.argv[1:] if argv is None else argv)]),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
    }


def git(*words: str) -> str | None:
    """What git says; None where it is not installed, or this is a copy without its history."""
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def gpu() -> dict:
    """The first CUDA device and its driver."""
    properties = torch.cuda.get_device_properties(0)
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(asked, capture_output=True, text=True).stdout.split("\n")[0].strip()
    except OSError:
        driver = "unknown: no nvidia-smi"
    return {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory GiB": round(properties.total_memory / 2**30, 1),
        "driver": driver,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
