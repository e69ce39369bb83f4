"""Processor time of this process and of all that it started, also of processes that still run."""

import os
from pathlib import Path


def cpu_seconds() -> float:
    """User and system seconds so far. A process that ended counts once its parent has asked for it.

    Where there is no /proc (not Linux): of this process, its threads and the children it has asked for.
    """
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    tick = os.sysconf("SC_CLK_TCK")
    for fields in _descendants(os.getpid()):
        total += sum(map(int, fields[11:15])) / tick  # utime, stime, cutime, cstime of proc(5)
    return total


def _descendants(pid: int) -> list[list[str]]:
    """The fields of /proc/PID/stat after the name, which may hold spaces: state first, then the parent."""
    processes, found, wanted = {}, [], {pid}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            number, rest = file.read_text().split(" ", 1)
        except OSError:  # ended meanwhile
            continue
        processes[int(number)] = rest.rpartition(")")[2].split()
    while wanted:
        children = {number for number, fields in processes.items() if int(fields[1]) in wanted}
        found += [processes.pop(number) for number in children]
        wanted = children
    return found
