"""How many CPUs this process may use, which in a container is fewer than the machine has."""

import os


def available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
