"""Ranks that are lost, launchers that say half, and a second run in the same folder."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.faults.scene import PATIENCE, Outcome, Scene, finished, log, sentence
from benchmarks.faults.signals import newest

RANKS = ("--batch_size=2",)  # of two ranks: as many images a step as of one


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def two_ranks(scene: Scene, out: Path) -> list:
    env = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [scene.start(out, *RANKS, "--epochs=100000", env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)]  # fmt: skip


def lost(signum: signal.Signals):
    """Rank 1 of two that nobody watches over: the other ends, and names it."""

    def inject(scene: Scene) -> Outcome:
        out = scene.new()
        first, second = two_ranks(scene, out)
        first.until(lambda: newest(out) > 0, "a checkpoint")
        began = time.monotonic()
        os.kill(second.pid, signum)
        try:
            said = first.ended(1, 60)
        finally:
            second.kill()
        line = sentence(said, f"rank 1 on {socket.gethostname()} has not been heard of for ")
        assert re.search(r"To go on: resume=\S+checkpoint-\d+\.pth", line), line
        return Outcome(line, seconds=time.monotonic() - began)

    return inject


killed, stopped = lost(signal.SIGKILL), lost(signal.SIGSTOP)


def restarted(scene: Scene) -> Outcome:
    """Rank 1 of two under torchrun --max-restarts=1 --auto_resume, which ends as an undisturbed run does."""
    whole = scene.folder / "whole-of-two-ranks"
    if not finished(whole, scene.epochs)():
        _torchrun(scene, whole).wait(PATIENCE)
    out = scene.new()
    run = _torchrun(scene, out)
    end = time.monotonic() + PATIENCE
    while not newest(out):
        assert run.poll() is None and time.monotonic() < end, (scene.folder / "torchrun.log").read_text()[-2000:]
        time.sleep(0.01)
    os.kill(_rank_of(run.pid, "1"), signal.SIGKILL)
    began = time.monotonic()
    said = scene.folder / "torchrun.log"
    assert run.wait(PATIENCE) == 0, said.read_text()[-3000:]
    assert log(out) == log(whole)
    line = sentence(said.read_text(), "Going on from ")
    return Outcome(line, log(out) == log(whole), time.monotonic() - began)


def _torchrun(scene: Scene, out: Path) -> subprocess.Popen:
    words = scene.words(out, *RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--max-restarts=1",
               f"--master_port={free_port()}", "-m", "mae_fast", *words]  # fmt: skip
    with open(scene.folder / "torchrun.log", "w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _rank_of(agent: int, rank: str) -> int:
    """The process of that rank, among the children of torchrun."""
    for child in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        if f"\0RANK={rank}\0" in f"\0{Path(f'/proc/{child}/environ').read_text()}":
            return int(child)
    raise AssertionError(f"no rank {rank} among the children of {agent}")


def half_set(scene: Scene) -> Outcome:
    out = scene.new()
    said = scene.start(out, env={"WORLD_SIZE": "2"}).ended(1)
    assert not out.exists()
    return Outcome(sentence(said, "RANK: not set, but WORLD_SIZE is 2"))


def two_runs(scene: Scene) -> Outcome:
    """The second is refused before it writes; the first goes on, and after a kill of it the folder is free."""
    out = scene.new()
    first = scene.start(out)
    first.until(lambda: newest(out) > 0, "a checkpoint")
    before = (out / "log.txt").read_text()
    said = scene.start(out).ended(2)
    assert f"in use by process {first.pid} on {socket.gethostname()}, started " in said, said
    assert (out / "log.txt").read_text().startswith(before)
    first.kill()
    return Outcome(sentence(said, "is in use by "), scene.goes_on(out))
