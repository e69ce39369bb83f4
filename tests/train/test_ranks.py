"""Randomness belongs to the sample: however ranks and accumulation cut an effective batch, the run is the same."""

import os
import signal
import subprocess
import sys

import pytest

from mae_fast.files.checkpoint import load_file
from mae_fast.train import pretrain
from mae_fast.train.interrupt import Interrupted
from tests.train.runs import flags, log, on_update, parse, run

LEARNS = "--blr=0.1"  # 1.6e-3 for these few images: what differs shows in the next loss


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    """-> the log and the weights of a run on one rank."""
    out = tmp_path_factory.mktemp("alone")
    weights = run(photos, out, LEARNS)["model"]
    losses = [line["train_loss"] for line in log(out)]
    assert losses[-1] < 0.9 * losses[0]
    return log(out), weights


def on_ranks(number, photos, out, *more):
    """A run on so many processes of one core each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", "-m",
               "mae_fast", "pretrain", *flags(photos, out, LEARNS, *more)]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr.decode()
    return load_file(out / "checkpoint-2.pth")


def apart(weights, others):
    """The distance of two states, relative to the size of the second."""
    squares = [((weights[name] - other).square().sum(), other.square().sum()) for name, other in others.items()]
    return (sum(s for s, _ in squares) / sum(s for _, s in squares)).sqrt().item()


def assert_same_run(out, alone):
    """The same losses and weights, to what another order of summation leaves."""
    lines, weights = alone
    for ours, theirs in zip(log(out), lines, strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert (ours["train_lr"], ours["epoch"]) == (theirs["train_lr"], theirs["epoch"])
    assert apart(load_file(out / "checkpoint-2.pth")["model"], weights) < 1e-6


@pytest.mark.parametrize(
    "ranks, more",
    [
        (1, ["--batch_size=2", "--accum_iter=2"]),
        (2, ["--batch_size=2"]),
        (2, ["--batch_size=1", "--accum_iter=2", "--parallel=fsdp", "--clip_grad=1e3"]),
        (4, ["--batch_size=1"]),
    ],
    ids=["accumulated", "two", "two sharded, accumulated", "four"],
)
def test_ranks_and_accumulation_do_not_change_the_run(photos, alone, tmp_path, ranks, more):
    content = on_ranks(ranks, photos, tmp_path / "o", *more)
    assert_same_run(tmp_path / "o", alone)
    assert content["mae_fast"]["position"]["layout"]["ranks"] == ranks == len(content["mae_fast"]["rng"])


def test_a_run_goes_on_with_other_ranks_and_batches(photos, alone, tmp_path, monkeypatch):
    """Stopped inside of an epoch on one rank, on with two that share the weights, and from there on one again."""
    out = tmp_path / "o"

    def stop_after_seven(number, step, update):
        result = update()
        if number == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    with monkeypatch.context() as patch:
        on_update(patch, stop_after_seven)
        with pytest.raises(Interrupted):
            pretrain(parse(flags(photos, out, LEARNS)))
    position = load_file(out / "checkpoint-interrupted.pth")["mae_fast"]["position"]
    assert (position["epoch"], position["batch"]) == (1, 2)
    on_ranks(2, photos, out, "--auto_resume", "--batch_size=1", "--accum_iter=2", "--parallel=fsdp", "--save_every=1")
    assert_same_run(out, alone)
    (out / "checkpoint-2.pth").unlink()
    run(photos, out, LEARNS, f"--resume={out / 'checkpoint-1.pth'}", "--batch_size=2", "--accum_iter=2")
    assert_same_run(out, alone)


def test_gradients_exchanged_in_bf16(photos, alone, tmp_path):
    more = "--batch_size=2", "--grad_dtype=bf16"
    assert 1e-5 < apart(on_ranks(2, photos, tmp_path / "o", *more)["model"], alone[1]) < 3e-4
