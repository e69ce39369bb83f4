"""mae-fast bench endurance: a run that leaks is told from one that does not."""

import mmap
import os
import random

import pytest
import torch

from benchmarks.harness import record
from benchmarks.harness.growth import growths, sample, shown
from mae_fast.train.report import Report
from tests.benchmarks.small import QUICK, bench

MIB = 2**20


def rows(resident, files=lambda step: 7):
    draw = random.Random(0)
    return [{"step": step, "rss_bytes": resident(step) + draw.randrange(2**18), "files": files(step), "threads": 5}
            for step in range(100, 10100, 100)]  # fmt: skip


@pytest.mark.parametrize(
    "resident, flat",
    [
        (lambda step: 500 * MIB, True),
        (lambda step: 500 * MIB + 100 * step, True),
        (lambda step: 300 * MIB + 200 * MIB * min(step, 3000) // 3000, True),  # what fills up in the first third
        (lambda step: 500 * MIB + 2000 * step, False),
        (lambda step: 50 * MIB + 900 * step, False),  # few bytes, and a large share
    ],
)
def test_growth_of_memory(resident, flat):
    found = {growth.name: growth for growth in growths(rows(resident))}
    assert found["rss_bytes"].flat is flat and found["files"].flat and found["threads"].flat


def test_growth_of_files():
    found = {growth.name: growth for growth in growths(rows(lambda step: MIB, lambda step: 7 + (step > 6000)))}
    assert not found["files"].flat and shown(found["files"])["verdict"] == "GROWS"
    assert shown(found["files"])["first"] == "7.0" and found["files"].slope > 0


def test_a_slope_is_found():
    found = growths([{"step": step, "rss_bytes": 3 * step} for step in range(100)])
    assert found[0].slope == pytest.approx(3)
    with pytest.raises(ValueError, match="steps: 12 samples are too few"):
        growths([{"step": step, "rss_bytes": 1} for step in range(12)])


def taken():
    """A MiB from the system: one from the heap may be another test's, freed and kept."""
    memory = mmap.mmap(-1, MIB)
    memory.write(b"x" * MIB)
    return memory


def test_a_sample_sees_this_process(tmp_path):
    before = sample(1, "cpu")
    with open(os.devnull):
        kept = [taken() for _ in range(50)]
        after = sample(2, "cpu")
    assert after["files"] == before["files"] + 1 and after["threads"] >= 1
    assert len(kept) * MIB <= after["rss_bytes"] - before["rss_bytes"] + MIB


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_a_run_that_leaks_is_told_from_one_that_does_not(tmp_path, monkeypatch, capsys, threads):
    monkeypatch.setattr("mae_fast.train.assemble.available_cpus", lambda: 0)  # no workers, whose files come and go
    flags = [*QUICK, "--dtypes", "fp32", "--steps", "64", "--loader", "pillow"]
    bench("endurance", *flags, "--out", str(tmp_path / "sound"))
    content = record.read(tmp_path / "sound" / "endurance.json")
    assert content["facts"]["steps"] == 64 and len(content["rows"]) == 64
    sound = {growth.name: growth for growth in growths(content["rows"])}
    assert sound["files"].slope < 0.2 and sound["threads"].flat and sound["rss_bytes"].slope < MIB / 4

    kept, steps = [], Report.steps

    def leak(*args):
        kept.append((taken(), open(os.devnull)))  # noqa: SIM115
        steps(*args)

    monkeypatch.setattr(Report, "steps", leak)
    assert bench("endurance", *flags, "--out", str(tmp_path / "leaks")) == 1
    leaks = {growth.name: growth for growth in growths(record.read(tmp_path / "leaks" / "endurance.json")["rows"])}
    assert leaks["rss_bytes"].slope > MIB / 2 and leaks["files"].slope == pytest.approx(1, abs=0.1)
    assert capsys.readouterr().out.count("GROWS") >= 2
    for _, file in kept:
        file.close()
