"""Where faults are injected: tiny runs of `mae-fast pretrain`, each a process of its own, and what they leave.

A process is forked from one that has imported everything, so that a start takes half a second and not five.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mae_fast.files.checkpoint import load_file

PATIENCE = 120  # seconds until a process that should have ended or said something fails the injection
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["mae_fast.cli.pretrain", "torch.utils.tensorboard", "matplotlib.figure"])


@dataclass
class Outcome:
    """What came of a fault. said: by the program; identical: losses and weights to those of the undisturbed run, None
    where the fault is not about them; seconds: from the fault to the end of the process."""

    said: str
    identical: bool | None = None
    seconds: float | None = None


class Started:
    """A run under way."""

    def __init__(self, words: list[str], log: Path, env: dict[str, str], act: Callable | None):
        self.log = log
        self.process = _forks.Process(target=_child, args=(words, str(log), env, act))
        self.process.start()
        self.pid = self.process.pid

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ended(self, code: int, seconds: float = PATIENCE) -> str:
        """What it said, without a traceback, when it has ended with this exit code."""
        self.process.join(seconds)
        said = self.said()
        assert self.process.exitcode is not None, f"still there after {seconds} seconds: {said[-2000:]}"
        assert self.process.exitcode == code, f"exit code {self.process.exitcode}, not {code}: {said[-2000:]}"
        assert "Traceback" not in said, said[-2000:]
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    def until(self, true: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert self.process.exitcode is None, f"ended before {what}: {self.said()[-2000:]}"
            assert time.monotonic() < end, f"{what}: not within {PATIENCE} seconds: {self.said()[-2000:]}"
            time.sleep(0.01)


def _child(words: list[str], log: str, env: dict[str, str], act: Callable | None) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as in a program: a loader's workers are its own children
    sys.argv = ["mae-fast", *words]
    from mae_fast.cli import main

    if act:
        act()
    code = main(words)
    sys.stdout.flush()
    os._exit(code)


@dataclass
class Scene:
    """A folder for everything; the undisturbed run that others are held to is made when it is first asked for."""

    folder: Path
    epochs: int = 12
    count: int = 0
    running: list[Started] = field(default_factory=list)

    @property
    def images(self) -> Path:
        """Twenty small pictures."""
        folder = self.folder / "images" / "train" / "one"
        if not folder.is_dir():
            write_images(folder)
        return self.folder / "images"

    @property
    def whole(self) -> Path:
        out = self.folder / "whole"
        if not (out / f"checkpoint-{self.epochs - 1}.pth").exists():
            self.start(out).ended(0)
        return out

    def words(self, out: Path, *more: str) -> list[str]:
        return [
            "pretrain", "--device=cpu", "--dtype=fp32", "--model=mae_vit_tiny_patch8", "--input_size=32",
            "--batch_size=4", f"--epochs={self.epochs}", "--warmup_epochs=1", f"--data_path={self.images}",
            f"--output_dir={out}", f"--log_dir={out}", "--num_workers=0", "--loader=pillow", "--save_every=1",
            "--auto_resume", *more,
        ]  # fmt: skip

    def start(self, out: Path, *more: str, env: dict[str, str] | None = None, act: Callable | None = None) -> Started:
        self.count += 1
        run = Started(self.words(out, *more), self.folder / f"{self.count}.log", env or {}, act)
        self.running.append(run)
        return run

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"out-{self.count}"

    def same(self, out: Path) -> bool:
        """Whether a run ended with the undisturbed run's loss in every epoch, weights and moments, bit for bit."""
        name = f"checkpoint-{self.epochs - 1}.pth"
        ours, wanted = (load_file(folder / name) for folder in (out, self.whole))
        return log(out) == log(self.whole) and all(equal(ours[key], wanted[key]) for key in ("model", "optimizer"))

    def goes_on(self, out: Path, *more: str) -> bool:
        """Run to the end; whether it is the same run."""
        self.start(out, *more).ended(0)
        return self.same(out)

    def clean(self) -> None:
        for run in self.running:
            if run.process.exitcode is None:
                run.kill()


def log(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]


def finished(out: Path, epochs: int) -> Callable[[], bool]:
    return lambda: (out / f"checkpoint-{epochs - 1}.pth").exists()


def equal(a, b) -> bool:
    """Two checkpoints, or parts of them, hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def write_images(folder: Path) -> None:
    """Twenty small pictures with something to learn: smooth colours."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(20):
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg")


def sentence(said: str, words: str) -> str:
    """The line that holds these words, the last one of those."""
    lines = [line for line in said.splitlines() if words in line]
    assert lines, f"never said {words!r}: {said[-2000:]}"
    return lines[-1]
