"""One job on two hosts, which two network namespaces with a cable between them stand for: its losses are those of one
host, and when the cable is cut both ends stop with a sentence. Needs root, Linux and iproute2."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mae_fast.files.checkpoint import load_file
from mae_fast.train.run_state import Position
from tests.train.runs import flags, log

MINUTE = 60
ADDRESSES = "10.213.7.1", "10.213.7.2"


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@contextmanager
def cabled(names):
    """Two namespaces; the device of both is `cable`."""
    try:
        for name in names:
            ip("netns", "add", name)
        ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", name, "link", "set", device, "up")
    except subprocess.CalledProcessError as error:
        for name in names:
            ip("netns", "delete", name, check=False)
        pytest.skip(f"this machine makes no network namespaces: {error.stderr.strip()}")
    yield names
    for name in names:
        ip("netns", "delete", name)


class Job:
    """Two ranks of one run that would go on for days. hosts: a namespace for each, None for this one."""

    def __init__(self, photos: Path, folder: Path, hosts, address: str, device: str):
        self.out = folder / "out"
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
        words = flags(photos, self.out, "--epochs=100000", "--dtype=fp32", "--save_every=1000")
        self.errors = [folder / f"rank{rank}.txt" for rank in range(2)]
        self.ranks = []
        for rank, host in enumerate(hosts):
            env = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": address, "MASTER_PORT": port,
                   "GLOO_SOCKET_IFNAME": device, "OMP_NUM_THREADS": 1}  # fmt: skip
            where = ["ip", "netns", "exec", host] if host else []
            with open(self.errors[rank], "w") as file:
                self.ranks.append(subprocess.Popen(
                    [*where, sys.executable, "-m", "mae_fast", "pretrain", *words], stdout=subprocess.DEVNULL,
                    stderr=file, env=os.environ | {name: str(value) for name, value in env.items()},
                ))  # fmt: skip

    def said(self) -> list[str]:
        return [file.read_text() for file in self.errors]

    def epochs(self, number: int) -> list[dict]:
        """The first of log.txt, as soon as they are there."""
        until = time.monotonic() + 2 * MINUTE
        while time.monotonic() < until and all(rank.poll() is None for rank in self.ranks):
            if (self.out / "checkpoint-0.pth").exists() and len(lines := log(self.out)) >= number:
                return lines[:number]
            time.sleep(0.1)
        pytest.fail(f"the run does not get to epoch {number}: {self.said()}")

    def kill(self) -> None:
        for rank in self.ranks:
            rank.kill()
            rank.wait()


@pytest.fixture(scope="module")
def jobs(photos, tmp_path_factory):
    """-> (ranks on two hosts, ranks on one host, the hosts), all at work."""
    if not sys.platform.startswith("linux") or os.geteuid():
        pytest.skip("network namespaces need Linux and root")
    if shutil.which("ip") is None:
        pytest.skip("network namespaces are made with ip, of iproute2, which is not installed")
    with cabled([f"mae-fast-{os.getpid()}-{end}" for end in "ab"]) as hosts:
        made = []
        try:
            for ends, address, device in ((hosts, ADDRESSES[0], "cable"), ((None, None), "127.0.0.1", "lo")):
                made.append(Job(photos, tmp_path_factory.mktemp("job"), ends, address, device))
            yield *made, hosts
        finally:
            for job in made:
                job.kill()


def test_two_hosts_train_as_one_does(jobs):
    apart, together, _ = jobs
    assert apart.epochs(3) == together.epochs(3)


def test_a_cut_cable_ends_both_with_a_sentence(jobs):
    apart, together, hosts = jobs
    together.kill()
    apart.epochs(3)
    assert ip("netns", "exec", hosts[1], "ss", "-tn", check=False).stdout.count(ADDRESSES[0]) > 0, "no word over it"
    ip("-n", hosts[0], "link", "set", "cable", "down")
    until = time.monotonic() + MINUTE
    for rank in apart.ranks:
        with suppress(subprocess.TimeoutExpired):
            rank.wait(max(0, until - time.monotonic()))
    said = apart.said()
    assert [rank.returncode for rank in apart.ranks] == [1, 1], said
    assert "rank 1" in said[0]
    last = [text.strip().splitlines()[-1] for text in said]
    assert not any(line.startswith((" ", "Traceback")) for line in last), said
    checkpoint = re.search(r"resume[= ](\S+\.pth)", said[0])
    assert checkpoint, said[0]
    position = Position(**load_file(Path(checkpoint[1]))["mae_fast"]["position"])
    assert position.epoch >= 1
