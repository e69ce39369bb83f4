"""The training loop: it learns, stops, resumes bit for bit, skips bad steps, and writes what the official one does."""

import argparse
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast import ops
from mae_fast.cli import main, show_messages
from mae_fast.cli import pretrain as command
from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained
from mae_fast.train import Diverged, Schedule, available_device, pretrain
from mae_fast.train.interrupt import Interrupted
from mae_fast.train.optim import _plateaus, load_optimizer, lr_at
from mae_fast.train.run_state import Position
from mae_fast.train.step import TrainingStep


@pytest.fixture(autouse=True)
def messages():
    show_messages()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Twenty small pictures with something to learn: smooth colours."""
    folder = tmp_path_factory.mktemp("photos") / "train" / "one"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(20):
        corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
        corners.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{i:02}.jpg")
    return folder.parent.parent


def flags(photos, out, *more):
    return [
        "--device=cpu", "--model=mae_vit_tiny_patch8", "--input_size=32", "--batch_size=4", "--epochs=3",
        "--warmup_epochs=1", f"--data_path={photos}", f"--output_dir={out}", f"--log_dir={out}", "--num_workers=0",
        "--loader=pillow", *more,
    ]  # fmt: skip


def parse(words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.recipe_of(parser.parse_args(words))


def run(photos, out, *more):
    pretrain(parse(flags(photos, out, *more)))
    return load_file(out / "checkpoint-2.pth")


def on_update(monkeypatch, act):
    """Each update of the weights becomes act(its number, from 1; the step; a function that makes it, its loss times a
    factor). Five batches make an epoch."""
    update, numbers = TrainingStep.update, count(1)

    def acted(step, loss, lr):
        return act(next(numbers), step, lambda factor=1: update(step, loss * factor, lr))

    monkeypatch.setattr(TrainingStep, "update", acted)


def log(out):
    return [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]


def same(a, b):
    """Two checkpoints hold the same numbers, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.fixture(scope="module")
def whole_run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    return out, run(photos, out)


def test_writes_what_the_official_script_writes(whole_run):
    out, content = whole_run
    assert {"model", "optimizer", "epoch", "scaler", "args"} <= content.keys()
    assert content["epoch"] == 2 and content["args"].norm_pix_loss is False
    assert {"checkpoint-0.pth", "checkpoint-2.pth", "log.txt", "loss.png"} <= {p.name for p in out.iterdir()}
    entries = log(out)
    assert [set(e) for e in entries] == [{"train_lr", "train_loss", "epoch"}] * 3
    assert [e["epoch"] for e in entries] == [0, 1, 2]
    assert entries[2]["train_loss"] < entries[0]["train_loss"]
    torch.amp.GradScaler("cpu").load_state_dict(content["scaler"])  # as the official script does
    assert load_pretrained(out / "checkpoint-2.pth").patch_embed.img_size == (32, 32)


def test_tensorboard_tags_and_axis(whole_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(whole_run[0]))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"train_loss", "lr"}
    assert [e.step for e in events.Scalars("train_loss")] == [1000 * epoch + 200 * step for epoch in range(3) for step in range(5)]  # noqa: E501  # fmt: skip
    assert events.Scalars("lr")[0].value == 0


def test_same_seed_same_run_and_another_seed_another(photos, whole_run, tmp_path):
    again = run(photos, tmp_path / "a")
    assert same(again["model"], whole_run[1]["model"])
    other = run(photos, tmp_path / "b", "--seed=1")
    assert not same(other["model"], whole_run[1]["model"])


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
        with pytest.raises(Interrupted, match=r"--resume .*checkpoint-interrupted\.pth") as stop:
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
    kills = int(os.environ.get("KILLS", 3))
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


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted(photos, tmp_path, monkeypatch, capsys):
    seen = []

    def poisoned(number, step, update):
        before = [p.detach().clone() for p in step.parameters]
        bad = number in (7, 8)
        result = update(math.nan if bad else 1)
        changed = not same(before, step.parameters)
        seen.append((bad, changed))
        return result

    on_update(monkeypatch, poisoned)
    content = run(photos, tmp_path / "o")
    assert all(changed != bad for bad, changed in seen[1:])  # the very first step has lr 0
    assert content["mae_fast"]["position"]["skipped"] == 2
    assert all(math.isfinite(e["train_loss"]) for e in log(tmp_path / "o"))
    assert "2 steps skipped" in capsys.readouterr().out


def test_divergence_stops_and_names_the_last_good_checkpoint(photos, tmp_path, monkeypatch):
    on_update(monkeypatch, lambda number, step, update: update(math.inf if number > 5 else 1))
    with pytest.raises(Diverged, match=r"5 steps in a row.*Last good checkpoint: .*checkpoint-0\.pth"):
        run(photos, tmp_path / "o")
    assert all(p.isfinite().all() for p in load_file(tmp_path / "o" / "checkpoint-0.pth")["model"].values())


def test_an_epoch_without_a_finite_loss_has_no_mean(photos, tmp_path, monkeypatch):
    on_update(monkeypatch, lambda number, step, update: update(math.nan if 5 < number <= 10 else 1))
    monkeypatch.setattr("mae_fast.train.loop.PATIENCE", 100)
    run(photos, tmp_path / "o", "--sched=plateau")
    losses = [e["train_loss"] for e in log(tmp_path / "o")]
    assert math.isnan(losses[1]) and math.isfinite(losses[0]) and math.isfinite(losses[2])


def test_fp16_trains(photos, tmp_path):
    content = run(photos, tmp_path / "o", "--dtype=fp16")
    assert (
        content["scaler"]["scale"] > 0 and log(tmp_path / "o")[-1]["train_loss"] < log(tmp_path / "o")[0]["train_loss"]
    )


def test_a_run_without_a_step_or_with_weights_that_are_not_finite_fails(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mae_fast.train.loop.PATIENCE", 100)
    with monkeypatch.context() as patch:
        on_update(patch, lambda number, step, update: update(math.nan))
        assert main(["pretrain", *flags(photos, tmp_path / "o")]) == 1
    assert "no step was taken" in capsys.readouterr().err

    def broken(number, step, update):
        result = update()
        if number == 9:
            step.parameters[0].data[0] = math.nan
        return result

    on_update(monkeypatch, broken)
    assert main(["pretrain", *flags(photos, tmp_path / "p", "--save_every=1")]) == 1
    assert "weights are not finite after epoch 2" in capsys.readouterr().err
    assert not (tmp_path / "p" / "checkpoint-1.pth").exists()


def test_a_finished_run_says_so(photos, whole_run, capsys):
    out = whole_run[0]
    written, lines = (out / "checkpoint-2.pth").stat(), log(out)
    assert main(["pretrain", *flags(photos, out, f"--resume={out / 'checkpoint-2.pth'}")]) == 0
    captured = capsys.readouterr()
    assert "already complete: 3 epochs, epochs 3. To train longer: epochs with more than 3" in captured.out
    assert "Going on" not in captured.out and not captured.err
    assert (out / "checkpoint-2.pth").stat() == written and log(out) == lines


def test_only_the_default_device_falls_back(photos, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available_device("cuda") == "cpu" and "training on the CPU" in caplog.text
    with pytest.raises(ValueError, match=r"device: cuda:0 is not there, PyTorch finds no CUDA device; .*device cpu"):
        available_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert available_device("cuda") == "cuda" and available_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="PyTorch finds cuda:0 to cuda:1"):
        available_device("cuda:2")


def test_the_start_names_kernels_and_not_ops(photos, tmp_path, monkeypatch, capsys):
    run(photos, tmp_path / "o")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mae_vit_tiny_patch8, 0.5 M parameters, fp32 on cpu x 1"
    assert lines[1] == f"kernels: {ops.kernels('cpu')}" and "_backward" not in lines[1]
    real = ops.library._kinds
    monkeypatch.setattr(ops.library, "_kinds", lambda op: real(op) | ({"cpu": "reference"} if "mse" in op else {}))
    assert ops.kernels("cpu").endswith("; plain PyTorch for masked_mse")
    monkeypatch.setattr(ops.library, "_kinds", lambda op: {"cpu": "reference"})
    assert ops.kernels("cpu") == "none, plain PyTorch runs every op"


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
        ({"OMPI_COMM_WORLD_SIZE": "3"}, [], "mpirun -n 3 mae-fast pretrain"),
    ],
)  # fmt: skip
def test_the_command_to_go_on_is_the_launchers(monkeypatch, env, words, expected):
    for name in (*TORCHRUN, *SRUN, "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    given = ["pretrain", *words, "--auto_resume", "--resume", "old.pth", "--resume=older.pth"]
    assert command.resume_command(given, Path("new.pth")) == f"{expected} --resume new.pth"


def test_compile_trains_to_the_same_losses(photos, whole_run, tmp_path):
    with torch._inductor.config.patch(fallback_random=True):  # the masks that eager mode draws
        run(photos, tmp_path / "o", "--compile")
    for ours, plain in zip(log(tmp_path / "o"), log(whole_run[0]), strict=True):
        assert ours["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-5)


def test_two_processes_train_together(photos, tmp_path):
    words = flags(photos, tmp_path / "o", "--accum_iter=2", "--batch_size=2")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29611", "-m",
               "mae_fast", "pretrain", *words]  # fmt: skip
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=200)
    content = load_file(tmp_path / "o" / "checkpoint-2.pth")
    assert len(content["mae_fast"]["rng"]) == 2
    assert content["mae_fast"]["position"]["layout"] == [2, 2, 2, 5]
    assert log(tmp_path / "o")[-1]["train_loss"] < log(tmp_path / "o")[0]["train_loss"]


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


def test_bad_images_are_counted_or_stop_the_run(photos, tmp_path, capsys):
    folder = tmp_path / "some"
    folder.mkdir()
    for file in (photos / "train" / "one").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "05.jpg").write_bytes(b"")
    (folder / "06.jpg").write_bytes(b"no picture")
    assert main(["pretrain", *flags(folder, tmp_path / "o")]) == 0
    captured = capsys.readouterr()
    assert "skipped 2 bad images so far" in captured.err
    assert main(["pretrain", *flags(folder, tmp_path / "p", "--on-bad-image=stop")]) == 1
    stopped = capsys.readouterr().err
    assert "05.jpg: zero bytes" in stopped or "06.jpg: not an image" in stopped
    assert main(["data", "check", str(folder)]) == 1
    listed = capsys.readouterr().out
    assert "05.jpg: zero bytes" in listed and "06.jpg: not an image" in listed and "20 images, 2 bad" in listed


# ---- schedules and flags ----


def schedule(**changes):
    return Schedule(lr=1.5, epochs=100, warmup_epochs=10, **changes)


def test_learning_rates():
    args = schedule(min_lr=0.1)
    assert [lr_at(e, args) for e in (0, 5, 10)] == [0, 0.75, 1.5]
    assert lr_at(55, args) == pytest.approx(0.8) and lr_at(100, args) == pytest.approx(0.1)
    assert lr_at(10 + 90 / 3, args) == pytest.approx(0.1 + 1.4 * 0.75)
    step = schedule(sched="step", decay_epochs=30)
    assert [lr_at(e, step) for e in (39.9, 40, 75)] == pytest.approx([1.5, 0.15, 0.015])
    plateau = schedule(sched="plateau", patience_epochs=2)
    assert [lr_at(20, plateau, losses) for losses in ([3, 2, 1], [1, 1, 1], [1, 1, 1, 1])] == pytest.approx([1.5, 1.5, 0.15])  # noqa: E501  # fmt: skip
    assert _plateaus([1] * 7, 2) == 2


OFFICIAL_DEFAULTS = dict(
    batch_size=64, epochs=400, accum_iter=1, model="mae_vit_large_patch16", input_size=224, mask_ratio=0.75,
    norm_pix_loss=False, weight_decay=0.05, lr=None, blr=1e-3, min_lr=0.0, warmup_epochs=40,
    data_path="/datasets01/imagenet_full_size/061417/", output_dir="./output_dir", log_dir="./output_dir",
    device="cuda", seed=0, resume="", start_epoch=0, num_workers=10, pin_mem=True, world_size=1, local_rank=-1,
    dist_on_itp=False, dist_url="env://",
)  # fmt: skip


def test_official_flags_and_defaults():
    settings = parse([]).flat()
    assert {name: settings[name] for name in OFFICIAL_DEFAULTS} == OFFICIAL_DEFAULTS
    assert parse(["--no_pin_mem"]).data.pin_mem is False


def test_config_file_gives_defaults_that_the_command_line_beats(photos, tmp_path):
    out = tmp_path / "o"
    config = {"device": "cpu", "model": "mae_vit_tiny_patch8", "input_size": 32, "batch_size": 4, "epochs": 5,
              "data_path": str(photos), "output_dir": str(out), "blr": "1e-3", "norm_pix_loss": True}  # fmt: skip
    (tmp_path / "c.yaml").write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in config.items()))
    assert main(["pretrain", "--config", str(tmp_path / "c.yaml"), "--epochs=1", "--log_dir="]) == 0
    args = load_file(out / "checkpoint-0.pth")["args"]
    assert args.norm_pix_loss is True and args.epochs == 1 and args.blr == 1e-3


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch: 3", "epoch is not a flag of pretrain; epochs?"),
        ("epochs: many", "epochs: 'many' does not fit (expected int)"),
        ("model: vit", "model: 'vit' does not fit"),
        ("norm_pix_loss: 1", "norm_pix_loss: 1 does not fit (expected true or false)"),
        ("- epochs", "expected flags and values"),
        ("epochs: [", "not YAML"),
        ("batch_size: null", "batch_size: None does not fit"),
        ("seed: null", "seed: None does not fit (expected int)"),
        ("weight_decay: .nan", "weight_decay: expected at least 0, got nan"),
        ("num_workers: -3", "num_workers: expected at least 0, got -3"),
    ],
)
def test_config_errors_name_the_key(tmp_path, capsys, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert main(["pretrain", "--config", str(path)]) == 1
    err = capsys.readouterr().err
    assert message in err and str(path) in err


@pytest.mark.parametrize(
    "more, message",
    [
        (["--batch_size=0"], "--batch_size: expected at least 1"),
        (["--cuda_graphs"], "cuda_graphs: needs compile and a CUDA device"),
        (["--mask_ratio=0"], "--mask_ratio: expected more than 0"),
        (["--weight_decay=nan"], "--weight_decay: expected at least 0, got nan"),
        (["--clip_grad=-1"], "--clip_grad: expected at least 0"),
        (["--warmup_epochs=-1"], "--warmup_epochs: expected at least 0"),
        (["--num_workers=-3"], "--num_workers: expected at least 0"),
        (["--blr=nan"], "--blr: expected at least 0"),
        (["--lr=-1"], "--lr: expected at least 0"),
        (["--lr=inf"], "--lr: expected at least 0, got inf"),
        (["--lr=1", "--min_lr=5"], "--min_lr: 5 is above lr 1"),
        (["--min_lr=5"], "--min_lr: 5 is above the learning rate"),
        (["--start_epoch=3"], "--start_epoch: 3 leaves nothing to train"),
        (["--device=gpu"], "--device: expected cuda, cuda:N or cpu, got 'gpu'"),
        (["--device=cuda:99"], "--device: cuda:99 is not there"),
        (["--config=/"], "--config: / is a folder"),
        (["--config=/no/such.yaml"], "--config: /no/such.yaml: No such file"),
        (["--resume=/"], "--resume: /: Is a directory"),
        (["--init_from=/no/such.pth"], "--init_from: /no/such.pth: No such file"),
        (["--output_dir=/dev/null/x"], "--output_dir: /dev/null"),
        (["--batch_size=64"], "lower batch_size"),
        (["--accum_iter=9"], "--accum_iter: 9 is more than"),
        (["--input_size=33"], "img_size"),
        (["--data_path=/no/such/folder"], "--data_path: /no/such/folder"),
        (["--resume=/no/such.pth"], "--resume: /no/such.pth"),
    ],
)
def test_flag_errors_name_the_flag(photos, tmp_path, capsys, more, message):
    assert main(["pretrain", *flags(photos, tmp_path / "o"), *more]) == 1
    assert message in capsys.readouterr().err
    assert not Path(tmp_path / "o").exists()
