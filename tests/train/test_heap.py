import subprocess
import sys

import pytest

from mae_fast.train.heap import keep_freed_memory

FAULTS = """
import resource, torch
from mae_fast.train.heap import keep_freed_memory
{call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.empty(2**25, dtype=torch.uint8).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
[faults() for _ in range(6)]
print(faults())
"""


def faults(call):
    out = subprocess.run([sys.executable, "-c", FAULTS.format(call=call)], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap")
def test_freed_memory_is_not_faulted_in_again():
    """4 x 32 MiB are 32,768 small pages, or 64 large ones."""
    given_back, kept = faults(""), faults("if not keep_freed_memory(): print(-1); raise SystemExit")
    assert kept < given_back / 4 or kept == -1


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
