"""Faults, injected into tiny runs for real: each ends with a sentence, and a run that goes on is the undisturbed one.

The injections are those of `mae-fast bench faults`, which makes them many times; here each is made once. SIGKILL,
SIGTERM, loaders that hang, broken images and losses that are no numbers have tests of their own.
"""

import pytest

from benchmarks.faults import disk, ranks, signals
from benchmarks.faults.scene import Scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    scene = Scene(tmp_path_factory.mktemp("faults"))
    yield scene
    scene.clean()


FAULTS = {
    "SIGUSR1": (signals.requeued, "stopped by SIGUSR1. To go on: mae-fast pretrain --device=cpu "),
    "disk full for a while": (disk.full_for_a_while, "(No space left on device). The run goes on, and tries again"),
    "disk full, then SIGTERM": (disk.full_when_stopped, "-interrupted.pth could not be written (No space left"),
    "files limited": (disk.file_too_large, "could not be written (File too large). No checkpoint was written before"),
    "read-only": (disk.read_only_at_the_start, "mae-fast pretrain: --output_dir: "),
    "a bit flipped": (disk.flipped, "is passed over: damaged: the checksum of "),
    "shared memory full": (disk.full_shared_memory, "in /dev/shm ("),
    "two runs": (ranks.two_runs, "mae-fast pretrain: --output_dir: "),
    "rank killed": (ranks.killed, " has not been heard of for "),
    "rank killed under torchrun": (ranks.restarted, "Going on from "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_ends_in_a_sentence_and_loses_nothing(scene, name):
    inject, said = FAULTS[name]
    try:
        outcome = inject(scene)
    except disk.NotHere as why:
        pytest.skip(f"not to be injected here: {why}")
    assert said in outcome.said, outcome.said
    assert outcome.identical is not False
