"""What is made of the results: the report of a GPU, tables and pictures; and the command."""

import sys
import time

import pytest

from benchmarks.harness import options, record
from benchmarks.reports import gpu_report, plots, readme
from mae_fast.cli import bench as command
from mae_fast.cli import main as mae_fast_main
from tests.benchmarks.small import QUICK, bench, result


def test_a_report_survives_its_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "LAUNCH", [sys.executable, "-c"])
    grandchild = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    todo = [
        gpu_report.Step("good", 1, ["print('well')"], paced=False),
        gpu_report.Step("bad", 1, ["raise SystemExit('broken')"], paced=False),
        gpu_report.Step("endless", 0.2, [grandchild], paced=False),
        gpu_report.Step("last", 1, ["print('still here')"], paced=False),
    ]
    began = time.monotonic()
    rows = gpu_report.run_steps(todo, 15, record.Record(tmp_path / "report.json", {}))
    assert time.monotonic() - began < 50  # the endless one and its child would take 60
    good, bad, endless, last = (row["outcome"] for row in rows)
    assert good == last == "done" and bad == "exit code 1: broken" and endless.startswith("stopped after")
    assert record.read(tmp_path / "report.json")["rows"] == rows
    assert (tmp_path / "last.log").read_text() == "still here\n"
    (row,) = gpu_report.run_steps(todo[:1], 0.5, record.Record(tmp_path / "late.json", {}))
    assert row["outcome"] == "not begun: no time left"


def test_every_step_of_a_report_is_a_command_that_parses(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu_report, "_run", lambda step, limit, out: asked.append((step, limit)) or "done")
    assert bench("gpu-report", *QUICK, "--minutes", "9", "--out", str(tmp_path)) == 0
    names = [step.name for step, _ in asked]
    assert names[:5] == ["limits tiny", "parity", "golden", "blocks tiny", "turns tiny"]
    assert {"turns tiny 2", "ops tiny", "attention", "data", "curve"} < set(names)
    assert all(0 < limit <= 9 * 60 for _, limit in asked)
    for step, _ in asked:
        if step.paced:
            options.of([*step.command[1:], "--seconds", "1"])
    names = [step.name for step in gpu_report.steps("cuda", False, None, tmp_path)]
    assert [name for name in names if "turns" in name] == ["turns base", "turns small", "turns large", "turns base 64"]


def test_few_minutes_are_for_limits_parity_and_base_and_continue_does_the_rest(tmp_path, monkeypatch):
    asked, failing = [], ["golden"]

    def ran(step, limit, out):
        asked.append(step.name)
        return "exit code 1: wrong" if step.name in failing else "done"

    monkeypatch.setattr(gpu_report, "_run", ran)
    assert bench("gpu-report", *QUICK, "--minutes", "3", "--out", str(tmp_path)) == 1
    assert asked == ["limits tiny", "parity", "golden", "turns tiny"]
    rows = {row["step"]: row["outcome"] for row in record.read(tmp_path / "report.json")["rows"]}
    assert rows["golden"] == "exit code 1: wrong" and rows["attention"] == rows["blocks tiny"] == gpu_report.NOT_BEGUN
    asked.clear()
    failing.clear()
    assert bench("gpu-report", *QUICK, "--minutes", "9", "--continue", str(tmp_path)) == 0
    assert "limits tiny" not in asked and asked[:3] == ["golden", "blocks tiny", "turns tiny 2"]
    content = record.read(tmp_path / "report.json")
    assert list(rows) == [row["step"] for row in content["rows"]] and "--minutes 3" in str(content["facts"]["earlier"])
    asked.clear()
    assert bench("gpu-report", *QUICK, "--continue", str(tmp_path)) == 0 and not asked
    other = record.Record(tmp_path / "other" / "report.json", {"cpu": "another"})
    other.add([])
    assert bench("gpu-report", *QUICK, "--continue", str(tmp_path / "other")) == 1


def test_what_a_step_had_no_time_for_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_report, "LAUNCH", [sys.executable, "-c"])
    rows = [{"op": "x", "side": "ours", "note": ""}, {"op": "y", "side": "ours", "note": "not run: no time left"}]
    record.Record(tmp_path / "some.json", {}).add(rows)
    step = gpu_report.Step("some", 1, ["pass"], paced=False, results="some.json")
    (row,) = gpu_report.run_steps([step], 60, record.Record(tmp_path / "report.json", {}))
    assert row["outcome"] == "done but for what had no time: y, ours"


@pytest.mark.parametrize("page", readme.pages(), ids=lambda page: page.parent.name)
def test_pages_are_in_step_with_their_results(page):
    text = page.read_text()
    assert readme.fill(text) == text, "run `mae-fast bench readme`"


def test_readme_shows_the_gpu_first():
    text = readme.README.read_text()
    assert text.index("throughput.svg") < text.index("<!-- bench:turns ") < text.index("<!-- bench:train cpu-")


def test_readme_table(tmp_path, monkeypatch):
    rows = [
        {"part": "train", "preset": "base", "batch": 4, "dtype": "bf16", "side": "ours compiled", "limit_s": 0.5,
         "images_per_s": 5.25, "seconds": [1.0]},
        {"part": "train", "preset": "base", "batch": 4, "dtype": "bf16", "side": "official", "note": "not run: why"},
    ]  # fmt: skip
    facts = dict(cpu="C", torch="2", threads=2, commit="0123456789", clean=False, date="2026-01-02 03:04 +0000")
    record.Record(tmp_path / "train_base.json", facts | {"instruction sets": ["avx2"]}).add(rows)
    monkeypatch.setattr(record, "RESULTS", tmp_path.parent)
    text = readme.fill(f"a\n<!-- bench:train {tmp_path.name} -->\nold\n<!-- /bench -->\nb")
    assert "| **mae_fast, bf16, torch.compile** | **5.2** |" in text and "alone, bf16 | 8.0 |" in text
    assert "commit 0123456 and changes" in text and "old" not in text and "official" not in text
    assert readme.fill(text) == text
    assert readme.fill(f"a\n<!-- bench:train {tmp_path.name} -->\n<!-- /bench -->\nb") == text  # a new block is empty
    with pytest.raises(ValueError, match="no <!-- bench:PART"):
        readme.fill("nothing")
    with pytest.raises(ValueError, match=r"nowhere: no train_\*.json"):
        readme.fill("<!-- bench:train nowhere -->\n\n<!-- /bench -->")
    with pytest.raises(ValueError, match="bench:trian: no such table; there are train, turns"):
        readme.fill("<!-- bench:trian nowhere -->\n\n<!-- /bench -->")


def test_the_same_results_give_the_same_picture(tmp_path):
    committed = next(record.RESULTS.glob("cpu-*/train_*.json"))
    (tmp_path / committed.name).write_text(committed.read_text())
    (file,) = plots.draw_all(tmp_path)
    first = file.read_text()
    assert file.name == "throughput.svg" and "official as shipped" in first
    plots.draw_all(tmp_path)
    assert file.read_text() == first
    assert bench("plots", str(tmp_path / "empty")) == 1


def test_without_a_clone_a_sentence(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert mae_fast_main(["bench", "ops"]) == 1
    assert "clone the repository" in capsys.readouterr().err


def test_the_command_runs_the_benchmarks_in_a_process_from_any_folder(monkeypatch, tmp_path, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    file = result(tmp_path / "a.json", side=[1.0])
    assert mae_fast_main(["bench", "compare", file, file]) == 0
    assert mae_fast_main(["bench", "compare", file, "/no.json"]) == 1
    assert "/no.json" in capfd.readouterr().err
