"""`mae-fast bench faults`: rows, the table of docs/reliability.md, and an exit code."""

from benchmarks.faults.scene import Outcome
from benchmarks.harness import record
from benchmarks.parts import faults
from benchmarks.reports.tables import TABLES
from tests.benchmarks.small import QUICK, bench


def test_rows_and_table(tmp_path, monkeypatch, capsys):
    def broken(scene):
        raise AssertionError("two losses differ")

    good = faults.Fault("good", lambda scene: Outcome("well", True, 1.5), "resumed")
    monkeypatch.setattr(faults, "FAULTS", [good, faults.Fault("bad", broken, "lost")])
    assert bench("faults", *QUICK, "--out", str(tmp_path), "--only", "good") == 0
    assert bench("faults", *QUICK, "--out", str(tmp_path), "--only", "bad", "--times", "2") == 1
    rows = record.read(tmp_path / "faults.json")["rows"]
    assert [(row["side"], row["times"], row["held"], row["identical"]) for row in rows] == [
        ("good", 1, 1, 1), ("bad", 2, 0, None)]  # fmt: skip
    assert rows[1]["note"] == "AssertionError: two losses differ"
    table = TABLES["faults"](tmp_path)
    assert "| good | 1 | resumed | 1 | 1 of 1 | 1.5 |" in table and "| bad | 2 | lost | 0 |  |  |" in table


def test_a_real_one(tmp_path):
    assert bench("faults", *QUICK, "--out", str(tmp_path), "--only", "WORLD_SIZE") == 0
    (row,) = record.read(tmp_path / "faults.json")["rows"]
    assert row["said"].startswith("mae-fast pretrain: RANK: not set, but WORLD_SIZE is 2")
