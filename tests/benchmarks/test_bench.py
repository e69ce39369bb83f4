"""mae-fast bench: timing, wrong ops refused, slow ones caught, reports that outlive their steps, README in step."""

import time

import pytest
import torch

from benchmarks.harness import record
from benchmarks.parts import data, limits, memory
from benchmarks.parts import ops as bench_ops
from benchmarks.reports import plots
from mae_fast import config, ops
from mae_fast.parity.cases import least_bytes, preset_cases
from tests.benchmarks.small import QUICK, TINY, bench, ops_rows


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A toy model, few ops, nothing compiled."""
    monkeypatch.setitem(config.SIZES, "tiny", TINY)
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # of processes of their own
    monkeypatch.setitem(limits.COPY_BYTES, "cpu", 2**20)
    few = "random_masking", "bias_gelu, encoder", "attention, decoder"
    monkeypatch.setattr(bench_ops, "preset_cases", lambda *shape: {k: preset_cases(*shape)[k] for k in few})


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
    pillow = rows["ours, Pillow"]
    assert pillow["images_per_s"] == 8 / pillow["median_s"] and pillow["of_limit"] > 0 and pillow["cores"] > 0
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


def test_limits_and_scaling(tmp_path):
    assert bench("limits", *QUICK, "--out", str(tmp_path)) == 0
    rows = record.read(tmp_path / "limits.json")["rows"]
    assert [row["unit"] for row in rows] == ["GB/s", "TFLOP/s", "TFLOP/s", "images/s"]
    assert bench("scaling", *QUICK, "--batch", "1,2", "--ranks", "1,2", "--out", str(tmp_path)) == 0
    rows = record.read(tmp_path / "scaling_tiny.json")["rows"]
    assert [(row["batch"], row["ranks"]) for row in rows] == [(1, 1), (2, 1), (2, 2)]
    assert all(row["images_per_s"] == row["ranks"] * row["batch"] / row["median_s"] for row in rows)
    assert [file.name for file in plots.draw_all(tmp_path)] == ["scaling.svg"]
