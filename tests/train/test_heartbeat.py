"""A rank that stops is named, by every other; one that leaves in order is not."""

import os
import socket
import subprocess
import sys
import time

import pytest
from torch.distributed import HashStore

from mae_fast.train.heartbeat import Heartbeat

HERE = socket.gethostname()


class Shared(HashStore):
    def clone(self):
        return self


@pytest.fixture
def ranks():
    """Three ranks of one process, each with its threads."""
    store = Shared()
    beats = [Heartbeat(store, rank, 3, lambda: "To go on: resume=x", every=0.05) for rank in range(3)]
    yield beats
    for beat in beats:
        beat._end.set()


def stop(beat):
    """As a kill does: no last word."""
    beat._end.set()


@pytest.mark.parametrize("gone", [0, 1])
def test_who_is_behind_an_error(ranks, gone):
    time.sleep(0.3)
    assert not any(beat.verdict for beat in ranks)
    stop(ranks[gone])
    blamed = [str(beat.blame()) for beat in ranks if beat is not ranks[gone]]
    assert all(text.startswith(f"rank {gone} on {HERE} has not been heard of for ") for text in blamed), blamed
    assert all(text.endswith(" seconds. To go on: resume=x") for text in blamed)


def test_a_reason_is_passed_on(ranks):
    ranks[1].leave("loader: pillow died")
    assert [str(ranks[rank].blame()) for rank in (0, 2)] == [
        f"rank 1 on {HERE} stopped: loader: pillow died. To go on: resume=x"
    ] * 2


def test_an_error_of_ones_own_is_nobodys_fault(ranks):
    assert ranks[0].blame() is None


def test_ranks_that_leave_in_order_are_not_missed(ranks):
    ranks[0].leave()
    ranks[1].leave()
    time.sleep(1.2)
    assert not ranks[2].verdict


HANGS = """
import time
from tests.train.test_heartbeat import Heartbeat, Shared
store = Shared()
first, second = (Heartbeat(store, rank, 2, every=0.05) for rank in range(2))
second._end.set()
time.sleep(1000)
"""


def test_a_rank_that_hangs_in_a_library_is_ended():
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60,
                          cwd=os.getcwd())  # fmt: skip
    assert done.returncode == 1 and time.monotonic() - began < 50
    assert f"rank 1 on {HERE} has not been heard of for 1 seconds" in done.stderr
