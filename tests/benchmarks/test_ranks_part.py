"""mae-fast bench ranks: processes on a core each, alone and together, and what goes between them."""

import os
import sys

import pytest

from benchmarks.harness import record
from benchmarks.parts import ranks
from tests.benchmarks.small import QUICK, bench

FLAGS = [*QUICK, "--dtypes", "fp32"]
two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core, so no two ranks with one each")


@two_cores
def test_alone_apart_and_together(tmp_path, capsys):
    assert bench("ranks", *FLAGS, "--out", str(tmp_path)) == 0
    content = record.read(tmp_path / "ranks.json")
    alone, apart, together = content["rows"]
    assert [row["side"] for row in content["rows"]] == ["alone", "apart", "ranks"]
    assert [row["ranks"] for row in content["rows"]] == [1, 2, 2] and alone["x_alone"] == 1
    assert len(together["seconds"]) == 2 and together["images_per_s"] == 8 / together["median_s"]
    assert "gradient_bytes" not in apart
    assert together["sent_bytes"] >= 2 * together["gradient_bytes"] > 1e6 and together["exchange_s"] > 0
    assert content["facts"]["cores"] == sorted(os.sched_getaffinity(0))[:2]
    assert "a step of 2 ranks takes" in capsys.readouterr().out


def test_more_ranks_than_cores_are_refused(tmp_path, capsys):
    assert bench("ranks", *FLAGS, "--out", str(tmp_path), "--ranks", "1000") == 1
    assert "--ranks: expected 2 to" in capsys.readouterr().err


@two_cores
def test_a_rank_that_dies_is_named_with_its_last_words(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ranks, "WORKER", [sys.executable, "-c", "raise SystemExit('no room left')"])
    assert bench("ranks", *FLAGS, "--out", str(tmp_path)) == 1
    said = "alone: ended with exit code 1; ranks_tiny_alone_0.log: no room left"
    assert f"tiny: {said}; its log is in" in capsys.readouterr().err
    assert record.read(tmp_path / "ranks.json")["rows"][0]["note"] == f"not run: {said}"


WITHIN = "a step of 2 ranks takes +14.0%, of which +5.0% without any exchange: within 15%"
BEYOND = "a step of 2 ranks takes +16.0%, of which +5.0% without any exchange: NOT within 15%"


@pytest.mark.parametrize("slower, words", [(1.14, WITHIN), (1.16, BEYOND)])
def test_verdict(slower, words):
    assert ranks.verdict([{"x_alone": 1.0}, {"x_alone": 1.05}, {"x_alone": slower, "ranks": 2}]) == words
