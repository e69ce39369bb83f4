"""Who computes attention: what a table of measurements makes `auto` choose, and the benchmark that fills it."""

import contextlib
import json
import logging
import weakref
from functools import partial

import pytest
import torch

from benchmarks import attention as bench
from benchmarks import record
from mae_fast import attention, reference
from mae_fast.cli import main

BF16 = torch.bfloat16


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A table to write, read anew."""
    monkeypatch.setattr(attention, "MEASURED", tmp_path / "attention.json")
    monkeypatch.setattr(attention, "_CPU_KERNEL", False)  # so that the CPU chooses as a GPU does
    attention.MEASURED.write_text("{}")
    attention._choices_of.cache_clear()
    yield attention.MEASURED
    attention._choices_of.cache_clear()


def row(tokens, **ms):
    return {"dtype": "bfloat16", "tokens": tokens, "head": 32, "shape": f"1x1x{tokens}x32", "ms": ms}


def test_a_gpu_without_measurements_gets_sdpa_and_says_so_once(measured, caplog):
    with caplog.at_level(logging.INFO, "mae_fast.attention"):
        assert attention._choices_of("NVIDIA X", BF16, 32) == attention._choices_of("NVIDIA X", BF16, 32) == ()
    assert [r.message for r in caplog.records] == [
        "attention on NVIDIA X, torch.bfloat16, heads of 32: sdpa (flash, efficient, math), nothing measured"
    ]


def test_the_fastest_at_the_nearest_number_of_tokens(measured, monkeypatch):
    measured.write_text(json.dumps({"NVIDIA X": [row(197, fused=1.0, cudnn=2.0), row(50, fused=3.0, cudnn=2.0)]}))
    monkeypatch.setattr(attention, "_choices", lambda device, *rest: attention._choices_of("NVIDIA X", *rest))
    calls = []
    for name in attention.CANDIDATES:
        monkeypatch.setitem(attention.CANDIDATES, name, lambda qkv, name=name: calls.append((qkv.shape[1], name)))
    for tokens, dtype, head in ((197, BF16, 32), (160, BF16, 32), (50, BF16, 32), (59, BF16, 32), (100, BF16, 32),
                                (197, BF16, 64), (197, torch.float16, 32)):  # fmt: skip
        attention.auto(torch.empty(1, tokens, 3, 1, head, dtype=dtype))
    assert [name for _, name in calls] == ["fused", "fused", "cudnn", "cudnn", "sdpa", "sdpa", "sdpa"]


@pytest.mark.parametrize("installed, fastest", [(object(), "xformers"), (None, "cudnn")])
def test_a_package_that_is_missing_is_not_the_fastest(measured, monkeypatch, installed, fastest):
    measured.write_text(json.dumps({"NVIDIA X": [row(50, xformers=1.0), row(197, xformers=1.0, cudnn=2.0, fused=3.0)]}))
    monkeypatch.setattr(attention, "find_spec", lambda name: installed)
    assert attention._choices_of("NVIDIA X", BF16, 32)[-1] == (197, fastest)


def test_auto_compiles_to_one_graph(measured):
    qkv = torch.randn(2, 5, 3, 2, 8)
    compiled = torch.compile(attention.auto, fullgraph=True, backend="eager")
    for tokens in (5, 7, 9):  # the second makes the number of tokens a symbol
        qkv = torch.randn(2, tokens, 3, 2, 8)
        torch.testing.assert_close(compiled(qkv), reference.attention(qkv))


def test_the_benchmark_times_what_is_right(tmp_path, monkeypatch):
    def unable(qkv):
        raise RuntimeError("No available kernel. Aborting execution.")

    sides = {"fused": reference.attention, "flash": unable, "cudnn": lambda qkv: reference.attention(qkv) * 1.1}
    sides["efficient"] = lambda qkv: reference.attention(qkv) * 1
    monkeypatch.setitem(bench.SIDES, "cpu", sides)
    flags = ["--device", "cpu", "--shapes", "2x3x5x8,1x1x7x16", "--dtypes", "fp32", "--rounds", "3"]
    assert main(["bench", "attention", *flags, "--out", str(tmp_path)]) == 0
    rows = record.read(tmp_path / "attention.json")["rows"]
    assert [row["side"] for row in rows] == [*sides, "products alone"] * 2
    fused, flash, cudnn, efficient, products = rows[:5]
    assert flash["note"] == "not run: RuntimeError: No available kernel. Aborting execution."
    assert cudnn["note"].startswith("fails parity, not timed: ") and "seconds" not in cudnn
    for row in (fused, efficient):
        assert len(row["seconds"]) == 3 and row["of_limit"] == pytest.approx(row["limit_s"] / row["median_s"])
    assert fused["x_ours"] == 1 and products["median_s"] > 0
    with pytest.raises(SystemExit):
        main(["bench", "attention", "--device", "cpu", "--shapes", "2x3x5"])
    assert main(["bench", "attention", *flags, "--keep"]) == 1


class OnCpu:
    """Stands in for streams and graphs; a graph remembers that it was replayed."""

    replays = 0

    def __init__(self, *_):
        pass

    def wait_stream(self, other):
        pass

    def replay(self):
        OnCpu.replays += 1


def test_a_captured_graph_keeps_what_it_reads(monkeypatch):
    for name in ("Stream", "current_stream", "CUDAGraph"):
        monkeypatch.setattr(torch.cuda, name, OnCpu)
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, contextlib.nullcontext)
    qkv, grad = torch.randn(1, 3, 3, 2, 8), torch.randn(1, 3, 16)
    read = weakref.ref(qkv)
    replay = bench.captured(partial(bench.forward_backward, reference.attention, qkv, grad))
    del qkv
    replay()
    assert OnCpu.replays == 2 and read() is not None
    del replay
    assert read() is None


def test_what_cannot_be_captured_is_named():
    def capture(step):
        raise RuntimeError("operation not permitted when stream is capturing")

    assert bench.unable(lambda: None, lambda step: step) == ""
    assert bench.unable(lambda: None, capture).startswith("not run: RuntimeError: operation not permitted")


def test_what_is_measured_again_replaces_what_was(measured):
    names = {"dtype": "fp32", "shape": "2x3x5x8"}
    left_out = names | {"side": "flash", "note": "not run"}
    alone = names | {"side": "products alone", "seconds": [0.0], "median_s": 0.0}
    for ms in (2.0, 4.0):
        times = {"fused": ms / 1e3, "cudnn": 3e-3}
        rows = [names | {"side": side, "seconds": [s], "median_s": s} for side, s in times.items()]
        bench.keep("NVIDIA X", [*rows, left_out, alone], measured)
    bench.keep("NVIDIA Y", [left_out], measured)
    assert attention._choices_of("NVIDIA X", torch.float32, 8) == ((5, "cudnn"),)
    assert attention._choices_of("NVIDIA Y", torch.float32, 8) == ()
