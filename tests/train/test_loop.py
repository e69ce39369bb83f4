"""The training loop: it learns, skips bad steps, and writes what the official one does."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mae_fast import ops
from mae_fast.cli import main
from mae_fast.data.loader import Loader
from mae_fast.files.checkpoint import load_file, load_pretrained
from mae_fast.train import Diverged, available_device, loop
from mae_fast.train.assemble import assemble
from mae_fast.train.loop import train
from mae_fast.train.step import TrainingStep
from tests.train.runs import flags, log, on_update, parse, run, same


def test_writes_what_the_official_script_writes(whole_run):
    out, content = whole_run
    assert {"model", "optimizer", "epoch", "scaler", "args"} <= content.keys()
    assert content["epoch"] == 2 and content["args"].norm_pix_loss is False
    assert {"checkpoint-0.pth", "checkpoint-2.pth", "log.txt", "loss.png"} <= {p.name for p in out.iterdir()}
    entries = log(out)
    assert [set(e) for e in entries] == [{"train_lr", "train_loss", "epoch"}] * 3
    assert [e["epoch"] for e in entries] == [0, 1, 2]
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
    content = run(photos, tmp_path / "o", "--dtype=fp16", "--blr=0.1")
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
    attention = "fused" if ops.backends()["attention"]["cpu"] == "cpp" else "sdpa"
    assert lines[2] == f"step: fp32 products, fp32 residual stream, {attention} attention, not compiled"
    real = ops.library._kinds
    monkeypatch.setattr(ops.library, "_kinds", lambda op: real(op) | ({"cpu": "reference"} if "mse" in op else {}))
    assert ops.kernels("cpu").endswith("; plain PyTorch for masked_mse")
    monkeypatch.setattr(ops.library, "_kinds", lambda op: {"cpu": "reference"})
    assert ops.kernels("cpu") == "none, plain PyTorch runs every op"


def test_compile_trains_to_the_same_losses(photos, whole_run, tmp_path, monkeypatch, capsys):
    begun, epoch, prepare = [], Loader.epoch, TrainingStep.prepare
    monkeypatch.setattr(Loader, "epoch", lambda *args: begun.append("loader") or epoch(*args))
    monkeypatch.setattr(TrainingStep, "prepare", lambda *args: begun.append(args[1].shape) or prepare(*args))
    with torch._inductor.config.patch(fallback_random=True):  # the masks that eager mode draws
        run(photos, tmp_path / "o", "--compile")
    assert begun[:3] == [(4, 32, 32, 3), "loader", (4, 32, 32, 3)]  # compiled while the loader rests
    assert "attention, compiled; compiling comes first and takes 1 to 2 minutes\n" in capsys.readouterr().out
    for ours, plain in zip(log(tmp_path / "o"), log(whole_run[0]), strict=True):
        assert ours["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-5)


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


def test_signals_are_seen_after_so_many_batches_not_updates(photos, tmp_path, monkeypatch):
    """Of 16 batches an update on CUDA, 20 updates took half a minute."""
    lengths, read = [], loop.read_window
    monkeypatch.setattr(loop, "WINDOW", {"cpu": 2})
    monkeypatch.setattr(loop, "read_window", lambda run: lengths.append(len(run.window)) or read(run))
    run(photos, tmp_path, "--accum_iter=2")
    assert lengths == [1] * 6


def test_numbers_of_callbacks_go_into_the_log_and_events(photos, tmp_path):
    run = assemble(parse(flags(photos, tmp_path)))
    run.callbacks = [lambda run, epoch: {"probe": 10.0 + epoch}, lambda run, epoch: {}]
    train(run)
    assert [entry["probe"] for entry in log(tmp_path)] == [10, 11, 12]
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("probe")
    assert [(event.step, event.value) for event in events] == [(1000, 10), (2000, 11), (3000, 12)]
