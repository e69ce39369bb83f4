"""mae-fast bench: timing, wrong ops refused, slow ones caught, reports that outlive their steps, README in step."""

import json
import os
import random
import statistics
import sys
import time

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.harness import options, provenance, record, timing
from benchmarks.parts import data, limits, memory
from benchmarks.parts import ops as bench_ops
from benchmarks.reports import gpu_report, plots, readme
from mae_fast import config, ops
from mae_fast.cli import bench as command
from mae_fast.cli import main as mae_fast_main
from mae_fast.parity.cases import least_bytes, preset_cases

TINY = config.Preset(
    patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)
QUICK = ["--device", "cpu", "--quick"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A toy model, few ops, nothing compiled."""
    monkeypatch.setitem(config.SIZES, "tiny", TINY)
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # of processes of their own
    monkeypatch.setitem(limits.COPY_BYTES, "cpu", 2**20)
    few = "random_masking", "bias_gelu, encoder", "attention, decoder"
    monkeypatch.setattr(bench_ops, "preset_cases", lambda *shape: {k: preset_cases(*shape)[k] for k in few})


# ---- timing ----


def test_the_interval_holds_the_median_as_often_as_it_says():
    draw = random.Random(0)
    for n in (6, 9, 21):
        hits = 0
        for _ in range(2000):
            low, high = timing.interval([draw.lognormvariate(0, 1) for _ in range(n)])
            hits += low <= 1 <= high  # the median of that distribution
        assert 0.94 < hits / 2000 < 0.995, n
    assert timing.interval([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_sides_take_turns_on_the_same_fresh_inputs():
    seen, drawn = [], iter(range(100))
    sides = {name: lambda x, name=name: lambda: seen.append((name, x)) for name in "ab"}
    turns = timing.take_turns(sides, lambda: (next(drawn),), 3, timing.Clock("cpu"), warm_up=2)
    assert seen == [(name, x) for x in range(5) for name in "ab"]
    assert {name: len(values) for name, values in turns.seconds.items()} == {"a": 3, "b": 3}
    late = timing.take_turns(sides, lambda: (0,), 3, timing.Clock("cpu"), until=0)
    assert len(late.seconds["a"]) == 1


def test_only_the_call_is_timed():
    def prepare(nap):
        time.sleep(0.05)
        return lambda: time.sleep(nap)

    turns = timing.take_turns({"side": prepare}, lambda: (0.01,), 3, timing.Clock("cpu"))
    assert min(turns.seconds["side"]) >= 0.01 and statistics.median(turns.seconds["side"]) < 0.05


def test_ratios_and_summaries():
    ratios = timing.times_as_long([2.0, 4.0, 9.0], [1.0, 1.0, 3.0])
    assert ratios == {"x_ours": 3.0, "x_ours_low": 2.0, "x_ours_high": 4.0}
    assert timing.summary([4.0, 1.0, 2.0, 3.0, 5.0]) == {"median_s": 3.0, "q1_s": 2.0, "q3_s": 4.0}


# ---- parts ----


def bench(*argv):
    return main([*argv])


def ops_rows(folder, *flags):
    assert bench("ops", *QUICK, "--rounds", "9", "--out", str(folder), "--sides", "ours", *flags) == 0
    return record.read(folder / "ops_tiny.json")["rows"]


def test_ops_are_timed_beside_the_reference_and_their_limit(tmp_path):
    rows = ops_rows(tmp_path, "--sides", "reference")
    assert {row["side"] for row in rows} == {"ours", "reference", "reference compiled", "products alone"}
    assert {(row["op"], row["pass"]) for row in rows} == {
        ("random_masking", "forward"),
        *((op, way) for op in ("bias_gelu, encoder", "attention, decoder") for way in ("forward", "backward")),
    }
    for row in rows:
        assert len(row["seconds"]) == 9 and row["median_s"] > 0
        if row["side"] != "products alone":
            assert row["of_limit"] == pytest.approx(row["limit_s"] / row["median_s"])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_the_cost_of_a_case_is_that_of_its_shapes(direction):
    for case in preset_cases(config.BASE, 4).values():
        if direction == "backward" and case.op in ("random_masking", "gather_patches"):
            continue  # of uint8 images nobody asks for the gradient
        assert least_bytes(case, direction, torch.bfloat16) > 0
    mse = preset_cases(config.BASE, 256)["masked_mse"]
    assert least_bytes(mse, "forward", torch.bfloat16) == 256 * 147 * (768 * (1 + 2 * 2) + 8)


def test_a_wrong_kernel_is_refused(tmp_path, wrong_kernel):
    with wrong_kernel("bias_gelu_backward"):
        rows = {row["op"]: row for row in ops_rows(tmp_path) if "seconds" not in row}
    assert list(rows) == ["bias_gelu, encoder"]
    assert rows["bias_gelu, encoder"]["note"].startswith("fails parity, not timed: gradient of x: error")


def test_a_peer_that_cannot_run_is_listed(tmp_path, monkeypatch):
    def no_compiler(*_):
        raise RuntimeError("no compiler\nmore")

    monkeypatch.setattr(torch, "compile", lambda f, **_: no_compiler)
    rows = ops_rows(tmp_path, "--sides", "compiled")
    notes = {row["side"]: row["note"] for row in rows if row["note"]}
    assert notes == {"reference compiled": "not run: RuntimeError: no compiler"}
    assert all("seconds" in row for row in rows if row["side"] == "ours")


def test_a_slowed_op_is_caught(tmp_path, monkeypatch, capsys):
    ops_rows(tmp_path / "before")
    right = ops.bias_gelu

    def slow(x, bias):
        time.sleep(0.02)
        return right(x, bias)

    monkeypatch.setattr(ops, "bias_gelu", slow)
    ops_rows(tmp_path / "after")
    before, after = (str(tmp_path / when / "ops_tiny.json") for when in ("before", "after"))
    capsys.readouterr()
    assert bench("compare", before, before) == 0
    assert bench("compare", before, after) == 1
    slower = [line for line in capsys.readouterr().out.splitlines() if "REGRESSION" in line]
    assert any("bias_gelu, encoder, forward" in line for line in slower)
    assert bench("compare", after, before, "--allow", "1e6") == 0


def test_compare_tells_whether_ratios_agree(tmp_path, capsys):
    times = {"ours": [1.0, 1.1, 1.0], "near": [2.0, 2.3, 2.1], "far": [2.0, 2.3, 2.1]}
    files = []
    for factor in (1.0, 2.0):  # the machine is half as fast the second time, and `far` loses half of that again
        seconds = {name: [factor * x for x in taken] for name, taken in times.items()}
        seconds["far"] = [x * factor for x in seconds["far"]]
        rows = [{"part": "train", "side": name, "seconds": taken, **timing.times_as_long(taken, seconds["ours"])}
                for name, taken in seconds.items()]  # fmt: skip
        files.append(tmp_path / f"{factor}.json")
        files[-1].write_text(json.dumps({"facts": {}, "rows": rows}))
    bench("compare", *map(str, files))
    lines = {line.split()[1]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "train, " in line}
    assert lines["near"] == "agrees" and lines["far"] == "DIFFERS" and lines["ours"] == "REGRESSION"


def result(file, **seconds):
    rows = [{"part": "ops", "side": side, "seconds": taken} for side, taken in seconds.items()]
    file.write_text(json.dumps({"facts": {}, "rows": rows}))
    return str(file)


def test_compare_goes_by_the_noise(tmp_path, capsys):
    steady, noisy = [1.0, 1.01, 1.02] * 3, [0.7, 1.0, 1.6] * 3
    a = result(tmp_path / "a.json", steady=steady, noisy=noisy, gone=steady)
    b = result(tmp_path / "b.json", steady=[1.1 * x for x in steady], noisy=[1.1 * x for x in noisy], new=steady)
    assert bench("compare", a, b) == 1
    verdicts = {line.split()[1]: line.split()[-1] for line in capsys.readouterr().out.splitlines() if "ops, " in line}
    assert verdicts["steady"] == "REGRESSION" and verdicts["noisy"] == "same"
    assert "REGRESSION" in bench_compare_line(a, b, "gone", capsys)
    assert bench("compare", result(tmp_path / "c.json", other=steady), a) == 1
    assert "no measured row in common" in capsys.readouterr().err
    (tmp_path / "d.json").write_text("[]")
    assert bench("compare", a, str(tmp_path / "d.json")) == 1
    assert "d.json: not a result" in capsys.readouterr().err


def bench_compare_line(a, b, name, capsys):
    bench("compare", a, b)
    return next(line for line in capsys.readouterr().out.splitlines() if name in line)


def test_memory_of_one_side(tmp_path):
    assert bench("memory", *QUICK, "--out", str(tmp_path), "--sides", "ours bf16,official as shipped") == 0
    theirs, ours = record.read(tmp_path / "memory_tiny.json")["rows"]
    assert "give --official DIR" in theirs["note"]
    assert ours["limit_bytes"] < ours["bytes"] < 2**31 and ours["of_limit"] < 1


def test_a_side_that_dies_is_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(memory.sys, "executable", "/bin/false")
    assert bench("memory", *QUICK, "--out", str(tmp_path), "--sides", "ours bf16") == 0
    (row,) = record.read(tmp_path / "memory_tiny.json")["rows"]
    assert row["note"] == "not run: exit code 1"


def test_data_beside_decoding_alone(tmp_path):
    assert bench("data", *QUICK, "--out", str(tmp_path)) == 0
    content = record.read(tmp_path / "data.json")
    rows = {row["side"]: row for row in content["rows"]}
    assert rows["ours, Pillow"]["images_per_s"] > 0 and rows["ours, Pillow"]["of_limit"] > 0
    assert rows["decoding alone"]["of_limit"] == 1
    assert content["facts"]["images"] == 32


def test_a_machine_that_cannot_decode_still_reports(tmp_path, monkeypatch):
    def no_decoder(*_):
        raise RuntimeError("nvJPEG is missing\nmore")

    for module in (limits, data):
        monkeypatch.setattr(module, "decoder", no_decoder)
    assert bench("data", *QUICK, "--out", str(tmp_path)) == 0 == bench("limits", *QUICK, "--out", str(tmp_path))
    rows = {row["side"]: row for name in ("data", "limits") for row in record.read(tmp_path / f"{name}.json")["rows"]}
    assert rows["ours, Pillow"]["images_per_s"] > 0 and rows["copy"]["rate"] > 0
    assert rows["decoding alone"]["note"] == rows["JPEG decoding"]["note"] == "not run: RuntimeError: nvJPEG is missing"


def test_a_copy_without_git_says_so(tmp_path, monkeypatch):
    facts = provenance.provenance("cpu", "benchmarks", [])
    assert facts["commit"] and isinstance(facts["clean"], bool)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)  # no history
    for path in (os.environ["PATH"], ""):  # and no git either
        monkeypatch.setenv("PATH", path)
        facts = provenance.provenance("cpu", "benchmarks", [])
        assert facts["commit"] == "unknown" and facts["clean"] is False


def test_limits_and_scaling(tmp_path):
    assert bench("limits", *QUICK, "--out", str(tmp_path)) == 0
    rows = record.read(tmp_path / "limits.json")["rows"]
    assert [row["unit"] for row in rows] == ["GB/s", "TFLOP/s", "TFLOP/s", "images/s"]
    assert bench("scaling", *QUICK, "--batch", "1,2", "--ranks", "1,2", "--out", str(tmp_path)) == 0
    rows = record.read(tmp_path / "scaling_tiny.json")["rows"]
    assert [(row["batch"], row["ranks"]) for row in rows] == [(1, 1), (2, 1), (2, 2)]
    assert all(row["images_per_s"] == row["ranks"] * row["batch"] / row["median_s"] for row in rows)
    assert [file.name for file in plots.draw_all(tmp_path)] == ["scaling.svg"]


# ---- gpu-report ----


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
    assert {"parity", "train tiny", "ops tiny", "attention", "memory tiny", "data"} < set(names)
    assert all(0 < limit <= 9 * 60 for _, limit in asked)
    for step, _ in asked:
        if step.paced:
            options.of([*step.command[1:], "--seconds", "1"])
    names = [step.name for step in gpu_report.steps("cuda", False, None, tmp_path)]
    assert {"train small", "train base", "train large"} < set(names)


# ---- output ----


def test_readme_is_in_step_with_its_results():
    text = readme.README.read_text()
    assert readme.fill(text) == text, "run `mae-fast bench readme`"


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
    with pytest.raises(ValueError, match="no <!-- bench:train"):
        readme.fill("nothing")
    with pytest.raises(ValueError, match=r"nowhere: no train_\*.json"):
        readme.fill("<!-- bench:train nowhere -->\n\n<!-- /bench -->")


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
