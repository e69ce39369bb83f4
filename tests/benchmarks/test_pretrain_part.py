"""mae-fast bench pretrain: a run's own loop from files, against the same loop from a batch that is ready."""

import time

import pytest
import torch

from benchmarks.harness import record, window
from benchmarks.parts import pretrain
from mae_fast import config
from tests.benchmarks.small import QUICK, TINY, bench


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(config.SIZES, "tiny", TINY)


def test_files_beside_a_batch_that_is_ready(tmp_path, capsys):
    assert bench("pretrain", *QUICK, "--dtypes", "fp32", "--out", str(tmp_path)) == 0
    content = record.read(tmp_path / "pretrain.json")
    rows = {row["side"]: row for row in content["rows"]}
    assert list(rows) == ["synthetic", "files", "256 px", "shards", "decoded"] and content["facts"]["goal"] == 0.98
    assert content["facts"]["commit"] and rows["synthetic"]["of_synthetic"] == 1
    assert rows["decoded"]["images_per_s"] > 0 and "cores_needed" not in rows["decoded"]
    for side in ("files", "256 px", "shards"):
        row = rows[side]
        assert row["images_per_s"] == 4 / row["median_s"] and row["of_synthetic"] > 0 and row["cores"] > 0
        assert row["cores_needed"] == pytest.approx(rows["synthetic"]["images_per_s"] / row["decoded_by_a_core"])
    assert "of synthetic" in capsys.readouterr().out


def test_a_window_counts_whole_groups_of_steps_after_the_first():
    tested, seen = window.Window(((torch.zeros(1), None) for _ in iter(int, 1)), 3, 0.05), 0
    for _ in tested.epoch(0):
        seen += 1
        time.sleep(0.3 if seen <= 3 else 0.01)  # slow at first, as while a pipeline fills
        if seen % 3 == 0:
            tested.steps(0, [None] * 3, 0)
    assert seen % 3 == 0 and tested.stamps[0][2] == 6 and tested.stamps[-1][2] == seen
    assert 0.01 <= tested.result()[0] < 0.25


def test_too_few_cores_are_named(monkeypatch):
    monkeypatch.setattr(pretrain, "available_cpus", lambda: 16)
    row = {"side": "files", "cores_needed": 20.0}
    assert pretrain.verdict(row, 8000) == (
        "files: 8000 images/s take 20.0 cores of decoding alone, of 16 here: too few without a GPU's decoder"
    )
    assert pretrain.verdict(row | {"cores_needed": 8.0}, 8000).endswith("of 16 here")
