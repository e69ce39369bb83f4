"""A run that stops, by a signal, a kill or its end, goes on bit for bit; also from files of other origins."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mae_fast.cli import main
from mae_fast.cli import training as command
from mae_fast.files.checkpoint import CheckpointError, load_file
from mae_fast.train import pretrain
from mae_fast.train.interrupt import Interrupted
from mae_fast.train.optim import load_optimizer
from mae_fast.train.run_state import Position
from tests.train.runs import flags, log, on_update, parse, run, same


@pytest.mark.parametrize("more", [(), ("--opt=sgd", "--sched=plateau"), ("--accum_iter=2", "--dtype=bf16")])
@pytest.mark.parametrize("epoch, batch", [(0, 2), (1, 4), (2, 2), (2, 5)])
def test_interrupted_and_resumed_is_the_same_run(photos, tmp_path, monkeypatch, more, epoch, batch):
    wanted = run(photos, tmp_path / "whole", *more)
    accum = 2 if "--accum_iter=2" in more else 1

    def signal_after(number, step, update):
        result = update()
        if number == epoch * (5 // accum) + batch // accum:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    out = tmp_path / "cut"
    with monkeypatch.context() as patch:
        on_update(patch, signal_after)
        with pytest.raises(Interrupted, match=r"resume=.*checkpoint-interrupted\.pth") as stop:
            pretrain(parse(flags(photos, out, *more)))
        assert stop.value.exit_code == 128 + signal.SIGTERM
    torch.manual_seed(999)
    got = run(photos, out, "--auto_resume", *more)
    for key in ("model", "optimizer", "scaler"):
        assert same(got[key], wanted[key]), key
    assert same(got["mae_fast"]["position"], wanted["mae_fast"]["position"])
    assert log(out) == log(tmp_path / "whole")


def test_killed_again_and_again_ends_the_same(photos, tmp_path):
    """kill -9 at random moments, resume each time. KILLS=20 for the long version."""
    kills = int(os.environ.get("KILLS", 2))
    epochs = 3 * kills
    more = [f"--epochs={epochs}", "--save_every=1", "--loader=auto"]
    pretrain(parse(flags(photos, tmp_path / "whole", *more)))
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "mae_fast", "pretrain", *flags(photos, out, *more), "--auto_resume"]
    for _ in range(kills):
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = len(list(out.glob("checkpoint-*.pth")))
        while child.poll() is None and len(list(out.glob("checkpoint-*.pth"))) == before:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.3))
        child.kill()
        child.wait()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wanted, got = (load_file(folder / f"checkpoint-{epochs - 1}.pth") for folder in (tmp_path / "whole", out))
    assert same(got["model"], wanted["model"]) and same(got["optimizer"], wanted["optimizer"])
    assert log(out) == log(tmp_path / "whole")


def test_ctrl_c_says_how_to_go_on(photos, tmp_path):
    command = [sys.executable, "-m", "mae_fast", "pretrain", *flags(photos, tmp_path / "o", "--epochs=2000")]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "o" / "checkpoint-0.pth").exists():
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130 and "\r" not in err and "\nepoch 1/2000, 0%, loss " in f"\n{err}"
    assert "stopped by SIGINT. To go on: mae-fast pretrain --device=cpu" in err
    assert f"--resume {tmp_path}/o/checkpoint-interrupted.pth" in err
    position = Position(**load_file(tmp_path / "o" / "checkpoint-interrupted.pth")["mae_fast"]["position"])
    assert (position.epoch, position.batch) > (0, 0)


def test_a_finished_run_says_so(photos, whole_run, capsys):
    out = whole_run[0]
    written, lines = (out / "checkpoint-2.pth").stat(), log(out)
    assert main(["pretrain", *flags(photos, out, f"--resume={out / 'checkpoint-2.pth'}")]) == 0
    captured = capsys.readouterr()
    assert "already complete: 3 epochs, epochs 3. To train longer: epochs with more than 3" in captured.out
    assert "Going on" not in captured.out and not captured.err
    assert (out / "checkpoint-2.pth").stat() == written and log(out) == lines


TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2", "GROUP_RANK": "1",
            "MASTER_ADDR": "a", "MASTER_PORT": "1"}  # fmt: skip


SRUN = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    "env, words, expected",
    [
        ({}, [], "mae-fast pretrain"),
        (TORCHRUN | {"GROUP_WORLD_SIZE": "1"}, [], "torchrun --nproc_per_node=4 -m mae_fast pretrain"),
        (TORCHRUN, [], "torchrun --nproc_per_node=4 --nnodes=2 --node_rank=1 --master_addr=a --master_port=1 -m mae_fast pretrain"),  # noqa: E501
        (SRUN, ["--world_size=8"], "srun --ntasks=8 mae-fast pretrain --world_size=8"),
        (SRUN, [], "mae-fast pretrain"),
        (SRUN | {"SLURM_STEP_NUM_TASKS": "8"}, [], "srun --ntasks=8 mae-fast pretrain"),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, [], "mpirun -n 3 mae-fast pretrain"),
    ],
)  # fmt: skip
def test_the_command_to_go_on_is_the_launchers(monkeypatch, env, words, expected):
    for name in (*TORCHRUN, *SRUN, "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    given = ["pretrain", *words, "--auto_resume", "--resume", "old.pth", "--resume=older.pth"]
    assert command.resume_command(given, Path("new.pth")) == f"{expected} --resume new.pth"


def test_auto_batch_size_is_kept_by_a_resumed_run(photos, tmp_path, monkeypatch, capsys):
    content = run(photos, tmp_path / "o", "--batch_size=auto", "--accum_iter=2")
    assert content["args"].batch_size == 10 and "batch size 10: all that the data allow" in capsys.readouterr().out
    monkeypatch.setattr("mae_fast.train.assemble.choose_batch_size", lambda *_: pytest.fail("asked again"))
    words = ["--batch_size=auto", "--accum_iter=2", "--auto_resume", "--activation_checkpointing", "--epochs=4"]
    run(photos, tmp_path / "o", *words)
    assert "batch size 10: that of" in capsys.readouterr().out and len(log(tmp_path / "o")) == 4


def test_resumes_an_official_checkpoint(photos, whole_run, tmp_path):
    content = {k: v for k, v in whole_run[1].items() if k != "mae_fast"}
    first = load_file(whole_run[0] / "checkpoint-0.pth")
    content |= {k: first[k] for k in ("model", "optimizer", "epoch")}
    for group in content["optimizer"]["param_groups"]:
        del group["fused"]  # the official script knows no fused kernels
    torch.save(content, tmp_path / "official.pth")
    run(photos, tmp_path / "o", f"--resume={tmp_path / 'official.pth'}")
    assert [e["epoch"] for e in log(tmp_path / "o")] == [1, 2]

    # Ours, converted, is such a checkpoint: the same run follows.
    converted = tmp_path / "converted.pth"
    assert main(["convert", str(whole_run[0] / "checkpoint-0.pth"), str(converted), "--to=official"]) == 0
    run(photos, tmp_path / "p", f"--resume={converted}")
    assert log(tmp_path / "p") == log(tmp_path / "o")


@pytest.mark.parametrize("old", [False, True])
def test_an_unfused_optimizer_comes_back_where_fused_kernels_read_it(old):
    """They want the counts of steps on the device of the weights, the others on the CPU; old PyTorch kept numbers."""
    plain, model = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2, device="meta")
    written = torch.optim.AdamW(plain.parameters())
    plain(torch.ones(1, 2)).sum().backward()
    written.step()
    state = written.state_dict()
    if old:
        state["state"] = {i: entry | {"step": int(entry["step"])} for i, entry in state["state"].items()}
    optimizer = torch.optim.AdamW(model.parameters())
    load_optimizer(optimizer, state)
    assert all(x.is_meta for entry in optimizer.state.values() for x in entry.values())
    assert all(group["fused"] and group["foreach"] is None for group in optimizer.param_groups)


def test_init_from_starts_anew_with_given_weights(photos, whole_run, tmp_path):
    content = run(photos, tmp_path / "o", f"--init_from={whole_run[0] / 'checkpoint-2.pth'}", "--lr=0")
    assert same(content["model"], whole_run[1]["model"]) and len(log(tmp_path / "o")) == 3
    torch.save({"model": load_file(whole_run[0] / "checkpoint-2.pth")["model"]}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match=r"weights\.pth.*init_from"):
        run(photos, tmp_path / "p", f"--resume={tmp_path / 'weights.pth'}")
