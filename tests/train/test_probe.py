"""The online probe: the accuracy that mae-fast knn gives, and a run that does not notice."""

import re

import pytest
import torch

from benchmarks.harness.digits import write_digits
from mae_fast.cli import main
from mae_fast.train import pretrain
from mae_fast.train.probe import LEAST, MOST, affordable
from tests.train.runs import flags, log, parse, run, same
from tests.train.test_ranks import on_ranks


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny products only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, train=4, val=4)
    return folder


@pytest.fixture(scope="module")
def probed(digits, tmp_path_factory):
    out = tmp_path_factory.mktemp("probed")
    return out, run(digits, out, "--probe_every=2", "--blr=0.1")


def test_a_run_does_not_notice(digits, probed, tmp_path, capsys):
    out, checkpoint = probed
    alone = run(digits, tmp_path, "--blr=0.1")
    assert same(checkpoint["model"], alone["model"]) and same(checkpoint["optimizer"], alone["optimizer"])
    assert same(checkpoint["mae_fast"]["rng"], alone["mae_fast"]["rng"])
    lines = log(out)
    assert ["probe_knn" in line for line in lines] == [False, True, True]  # every second epoch, and the last
    assert [line | {"probe_knn": 0} for line in log(tmp_path)] == [line | {"probe_knn": 0} for line in lines]


def test_it_is_the_accuracy_of_the_command(digits, probed, capsys):
    shared = f"--data_path {digits} --device cpu --dtype fp32 --loader pillow --num_workers 0"
    assert main(f"knn --checkpoint {probed[0]}/checkpoint-2.pth {shared}".split()) == 0
    said = capsys.readouterr().out
    assert "40 training and 40 validation" in said
    assert float(re.search(r"k = 20: top-1 ([\d.]+) %", said)[1]) == log(probed[0])[-1]["probe_knn"] > 10


def test_events_for_tensorboard(probed):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(probed[0]))
    events.Reload()
    assert [event.step for event in events.Scalars("probe_knn")] == [2000, 3000]


def test_ranks_share_the_pictures(digits, probed, tmp_path):
    on_ranks(2, digits, tmp_path, "--batch_size=2", "--parallel=fsdp", "--probe_every=2")
    for ours, theirs in zip(log(tmp_path), log(probed[0]), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours.get("probe_knn") == pytest.approx(theirs.get("probe_knn"), abs=2.6)  # one of 40


def test_pictures_without_labels_or_val_are_refused(photos, digits, tmp_path, capsys):
    assert main(["pretrain", *flags(photos, tmp_path, "--probe_every=1")]) == 1
    assert "--probe_every: wants labelled pictures" in (said := capsys.readouterr().err) and "no folder val" in said
    (tmp_path / "flat").mkdir()
    for split in ("train", "val"):
        (tmp_path / "flat" / split).symlink_to(digits / split / "0")
    assert main(["pretrain", *flags(photos, tmp_path, "--probe_every=1", f"--probe_path={tmp_path}/flat")]) == 1
    assert "no labels" in capsys.readouterr().err
    assert parse(flags(photos, tmp_path)).probe_every == 0


def test_as_many_pictures_as_the_time_allows(digits, tmp_path, capsys):
    assert affordable(1e9, 0.01) == MOST and affordable(10, 0.01) == 512 and affordable(0, 0.01) == LEAST
    pretrain(parse(flags(digits, tmp_path, "--probe_every=1", "--epochs=2")))
    said = capsys.readouterr()
    assert "Online probe: kNN of 80 pictures" in said.out
    assert "--probe_every" not in said.err and "probe_every: probes take more than 3 %" in said.err


def test_a_probe_that_finds_no_memory_ends_no_run(digits, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mae_fast.train.probe.OnlineProbe.encode", full)
    pretrain(parse(flags(digits, tmp_path, "--probe_every=1", "--epochs=2")))
    assert len(log(tmp_path)) == 2 and not any("probe_knn" in line for line in log(tmp_path))
    assert "probe_every: no memory for a probe" in capsys.readouterr().err
