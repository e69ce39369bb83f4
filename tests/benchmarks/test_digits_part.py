"""The table of digits: what is judged, and when pretraining has won."""

import json

import pytest
import torch

from benchmarks.harness.digits import write_digits
from benchmarks.parts import digits
from benchmarks.reports.digits import accuracies, summary


@pytest.fixture
def rows(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "SHOTS", (1,))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_digits(tmp_path / "data", train=13, val=3)
    recipe = {"device": "cpu", "output_dir": "", "log_dir": "", "loader": "pillow", "num_workers": 0}
    yield digits.rows_of(0, 2, 1, "mean", tmp_path / "data", recipe)
    torch.set_num_threads(threads)


def test_both_encoders_are_judged_alike(rows):
    judged = {side: [row["op"] for row in rows if row["side"] == side] for side in ("random weights", "pretrained")}
    assert judged["random weights"] == judged["pretrained"] and len(set(judged["pretrained"])) == 5
    assert all(2 <= row["top1"] <= 100 for row in rows)
    before, after = ([row["top1"] for row in rows if row["side"] == side] for side in judged)
    assert before != after  # a few updates of the weights show
    assert 450_000 < sum(p.numel() for p in digits.new_model(0).parameters()) < 550_000


def test_a_clear_win_is_more_than_the_seeds_differ(tmp_path):
    def row(side, seed, top1):
        return {"op": "kNN", "side": side, "seed": seed, "top1": top1}

    rows = [row("random weights", seed, 70 + seed) for seed in range(3)]
    assert summary(rows + [row("pretrained", seed, 75 + seed) for seed in range(3)])[0]["wins"]
    assert not summary(rows + [row("pretrained", seed, 70.5 + seed) for seed in range(3)])[0]["wins"]
    facts = {
        "weights": 500_000,
        "epochs": 3,
        "tune_epochs": 1,
        "seeds": 3,
        "cpu": "X",
        "torch": "2",
        "date": "2026-01-01",
        "commit": "abcdefgh",
    }
    rows += [row("pretrained", seed, 75 + seed) for seed in range(3)]
    (tmp_path / "digits.json").write_text(json.dumps({"facts": facts, "rows": rows}))
    assert "| kNN | 71.0 ± 1.0 | 76.0 ± 1.0 |" in accuracies(tmp_path)
