"""Disks that take no more, and files that come back damaged: on small file systems mounted for it."""

import os
import random
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

from benchmarks.faults.scene import Outcome, Scene, log, sentence
from benchmarks.faults.signals import newest


class NotHere(Exception):
    """The fault cannot be injected on this machine."""


class Mounted:
    """A small file system in memory for output_dir, unmounted at the end."""

    def __init__(self, folder: Path, size: str = "200m"):
        self.folder, self.mounts = folder, 0
        folder.mkdir()
        self.mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs")

    def mount(self, *words: str) -> None:
        done = subprocess.run(["mount", *words, str(self.folder)], capture_output=True, text=True)
        if done.returncode:
            raise NotHere(f"mount: {done.stderr.strip()}")
        self.mounts += 1

    def fill(self) -> None:
        """Leave no byte: the rest becomes one file."""
        with open(self.folder / "filling", "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
            except OSError:
                pass

    def free(self) -> None:
        (self.folder / "filling").unlink()

    def read_only(self) -> None:
        """New files are refused, as after an error of the disk; those that are open stay so."""
        self.mount("--bind", str(self.folder))
        subprocess.run(["mount", "-o", "remount,bind,ro", str(self.folder)], check=True, capture_output=True)

    def writable(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
        self.mounts -= 1

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for _ in range(self.mounts):
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


def started_on(scene: Scene, out: Path):
    run = scene.start(out)
    run.until(lambda: newest(out) > 0, "a checkpoint")
    time.sleep(random.uniform(0, 0.2))
    return run


def no_partial(out: Path) -> bool:
    return not list(out.glob(".*.partial"))


def full_for_a_while(scene: Scene) -> Outcome:
    with Mounted(scene.new()) as disk:
        run = started_on(scene, disk.folder)
        disk.fill()
        run.until(lambda: "tries again" in run.said(), "the warning")
        assert no_partial(disk.folder)
        disk.free()
        line = sentence(run.ended(0), "The run goes on, and tries again at the end of the next epoch")
        return Outcome(line, scene.same(disk.folder))


def full_to_the_end(scene: Scene) -> Outcome:
    with Mounted(scene.new()) as disk:
        run = started_on(scene, disk.folder)
        disk.fill()
        said = run.ended(1)
        assert no_partial(disk.folder) and newest(disk.folder)
        disk.free()
        return Outcome(sentence(said, "mae-fast pretrain: --output_dir: "), scene.goes_on(disk.folder))


def full_when_stopped(scene: Scene) -> Outcome:
    with Mounted(scene.new()) as disk:
        run = started_on(scene, disk.folder)
        disk.fill()
        os.kill(run.pid, signal.SIGTERM)
        said = run.ended(1)
        disk.free()
        return Outcome(sentence(said, "checkpoint-interrupted.pth could not be written"), scene.goes_on(disk.folder))


def file_too_large(scene: Scene) -> Outcome:
    """A limit that no checkpoint keeps to, where nothing can be mounted: nothing is ever saved."""
    out = scene.new()
    said = scene.start(out, act=limit_files).ended(1)
    assert no_partial(out) and not newest(out) and len(log(out)) == scene.epochs
    return Outcome(sentence(said, "mae-fast pretrain: --output_dir: "))


def limit_files() -> None:
    """In the process of a run: files of at most a mebibyte."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def read_only(scene: Scene) -> Outcome:
    with Mounted(scene.new()) as disk:
        run = started_on(scene, disk.folder)
        disk.read_only()
        run.until(lambda: "tries again" in run.said(), "the warning")
        disk.writable()
        line = sentence(run.ended(0), "The run goes on, and tries again")
        return Outcome(line, scene.same(disk.folder))


def read_only_at_the_start(scene: Scene) -> Outcome:
    with Mounted(scene.new()) as disk:
        disk.read_only()
        return Outcome(sentence(scene.start(disk.folder).ended(1), "--output_dir: "))


def flipped(scene: Scene) -> Outcome:
    """One bit of the newest checkpoint, anywhere in its largest tensor."""

    def flip(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:  # between its records are bytes that nobody reads
            record = max(archive.infolist(), key=lambda info: info.file_size)
        with open(path, "r+b") as file:
            file.seek(record.header_offset + 26)  # lengths of the name and of what follows it, before the content
            names = sum(int.from_bytes(file.read(2), "little") for _ in range(2))
            at = file.seek(record.header_offset + 30 + names + random.randrange(record.file_size))
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << random.randrange(8)]))

    return _damaged(scene, flip)


def truncated(scene: Scene) -> Outcome:
    return _damaged(scene, lambda path: os.truncate(path, random.randrange(path.stat().st_size)))


def _damaged(scene: Scene, damage) -> Outcome:
    """The newest of two checkpoints: auto_resume takes the one before, and resume names it."""
    out = scene.new()
    run = scene.start(out)
    run.until(lambda: len(list(out.glob("checkpoint-*.pth"))) > 2, "two checkpoints")
    run.kill()
    victim = max(out.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime_ns)
    times = victim.stat()
    damage(victim)
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    refused = scene.start(out, f"--resume={victim}").ended(1)
    before = sentence(refused, "the newest whole checkpoint beside it is ").rpartition(" ")[2]
    run = scene.start(out)
    said = run.ended(0)
    assert f"Going on from {before}" in said
    return Outcome(sentence(said, f"auto_resume: {victim} is passed over: "), scene.same(out))


def full_shared_memory(scene: Scene) -> Outcome:
    """Of the loader's processes: a disk for their batches of 4 KiB alone, in a namespace that this run alone sees."""
    out = scene.new()
    words = scene.words(out, "--num_workers=2", "--batch_size=8", "--loader_timeout=60")
    script = 'mount -t tmpfs -o size=60k tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-m", "mae_fast", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        raise NotHere(done.stderr.strip())
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return Outcome(sentence(done.stderr, "/dev/shm"))
