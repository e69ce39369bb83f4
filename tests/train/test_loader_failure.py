"""A loader that dies or hangs ends the run with a sentence and a checkpoint to go on from: for real, in processes."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mae_fast.files.checkpoint import load_file
from mae_fast.train import pretrain
from tests.train.runs import flags, log, parse

EPOCHS = "--epochs=1000000"
# A resize that fails, or never ends, from the third batch of the second epoch on, inside a DALI pipeline at work.
DALI_PROGRAM = """
import sys, time
from mae_fast.data import dali_engine
from mae_fast.cli import main
real, made = dali_engine.torch_resize, 0

def resize(size, pool, *more):
    def one(images):
        global made
        made += len(images) == 4
        if made > 7:
            {act}
        return list(pool.map(lambda image: image[:1, :1].repeat(size[0], 0).repeat(size[1], 1), images))
    return lambda images: dali_engine_fn.python_function(
        images, function=one, batch_processing=True, output_layouts="HWC")

import nvidia.dali.fn as dali_engine_fn
dali_engine.torch_resize = resize
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def images(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "images")


def started(program, words):
    return subprocess.Popen(
        [sys.executable, *program, "pretrain", *words], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for_epoch(out, child):
    end = time.monotonic() + 120
    while not ((out / "log.txt").is_file() and (out / "log.txt").read_text()):
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(child, out, what):
    """Its last sentence, checked: exit code 1, the cause, and a command that goes on with the run."""
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1, errors
    assert "Traceback" not in errors, errors
    sentence = errors.splitlines()[-1]
    found = re.fullmatch(rf"mae-fast pretrain: {what}\. To go on: (mae-fast pretrain .*)", sentence)
    assert found, errors
    checkpoint = out / "checkpoint-interrupted.pth"
    words = shlex.split(found[1])
    assert words[-2:] == ["--resume", str(checkpoint)]
    position = load_file(checkpoint)["mae_fast"]["position"]
    assert position["epoch"] >= 1 and position["steps"] == position["batch"]
    return position, [word for word in words[2:] if word != EPOCHS]


def goes_on(words, out, position):
    pretrain(parse([*words, f"--epochs={position['epoch'] + 1}", "--loader=pillow", "--num_workers=0"]))
    assert [line["epoch"] for line in log(out)] == list(range(position["epoch"] + 1))


def workers_of(pid):
    """The worker processes, forked by any of its threads."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for children in lists for child in children.read_text().split()]


def test_a_pipeline_that_dies(images, tmp_path):
    pytest.importorskip("nvidia.dali")
    out = tmp_path / "out"
    program = ["-c", DALI_PROGRAM.format(act="raise ValueError('the device fell off')")]
    child = started(program, flags(images, out, EPOCHS, "--loader=dali", "--num_workers=1"))
    position, words = ended(child, out, r"loader: dali died: Critical error in pipeline: .*the device fell off.*")
    assert (position["epoch"], position["batch"]) == (1, 2)
    goes_on(words, out, position)


def test_a_pipeline_that_hangs(images, tmp_path):
    pytest.importorskip("nvidia.dali")
    out = tmp_path / "out"
    program = ["-c", DALI_PROGRAM.format(act="time.sleep(10000)")]
    words = flags(images, out, EPOCHS, "--loader=dali", "--num_workers=1", "--loader_timeout=10", "--accum_iter=2")
    position, words = ended_accumulating(started(program, words), out)
    assert (position["epoch"], position["batch"], position["steps"]) == (1, 2, 1)
    goes_on(words, out, position)


def ended_accumulating(child, out):
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 1, errors
    assert "mae-fast pretrain: loader: dali gave no batch for 10 seconds, loader_timeout. To go on: " in errors
    words = shlex.split(errors.splitlines()[-1].partition("To go on: ")[2])
    return load_file(out / "checkpoint-interrupted.pth")["mae_fast"]["position"], [w for w in words[2:] if w != EPOCHS]


def test_a_worker_process_that_is_killed(images, tmp_path):
    out = tmp_path / "out"
    child = started(["-m", "mae_fast"], flags(images, out, EPOCHS, "--num_workers=2"))
    wait_for_epoch(out, child)
    os.kill(workers_of(child.pid)[0], signal.SIGKILL)
    position, words = ended(child, out, r"loader: pillow died: DataLoader worker \(pid\(s\) \d+\) exited unexpectedly")
    goes_on(words, out, position)


def test_workers_that_hang(images, tmp_path):
    out = tmp_path / "out"
    child = started(["-m", "mae_fast"], flags(images, out, EPOCHS, "--num_workers=2", "--loader_timeout=3"))
    wait_for_epoch(out, child)
    workers = workers_of(child.pid)
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    position, words = ended(child, out, "loader: pillow gave no batch for 3 seconds, loader_timeout")
    assert not any(Path(f"/proc/{worker}").exists() and "python" in Path(f"/proc/{worker}/cmdline").read_text()
                   for worker in workers)  # fmt: skip
    goes_on(words, out, position)


@pytest.mark.parametrize("loader", ["dali", "pillow"])
def test_a_file_that_is_never_read(images, tmp_path, loader):
    """As on a file system whose server is gone; here a pipe that nobody writes to."""
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    out = tmp_path / "out"
    child = started(["-m", "mae_fast"], flags(images, out, EPOCHS, f"--loader={loader}", "--loader_timeout=10"))
    wait_for_epoch(out, child)
    victim = images / "train" / "one" / "07.jpg"
    os.mkfifo(tmp_path / "pipe")
    shutil.copy(victim, tmp_path / "kept.jpg")
    os.replace(tmp_path / "pipe", victim)
    position, words = ended(child, out, f"loader: {loader} gave no batch for 10 seconds, loader_timeout")
    os.replace(tmp_path / "kept.jpg", victim)
    goes_on(words, out, position)
