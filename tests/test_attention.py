"""Who computes attention: what a table of measurements makes `auto` choose, and the benchmark that fills it."""

import json
import logging

import pytest
import torch

from benchmarks import attention_gpu
from mae_fast import attention, reference

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


def test_auto_compiles_to_one_graph(measured):
    qkv = torch.randn(2, 5, 3, 2, 8)
    compiled = torch.compile(attention.auto, fullgraph=True, backend="eager")
    for tokens in (5, 7, 9):  # the second makes the number of tokens a symbol
        qkv = torch.randn(2, tokens, 3, 2, 8)
        torch.testing.assert_close(compiled(qkv), reference.attention(qkv))


def test_the_gpu_benchmark_times_what_is_right_and_keeps_it(measured, monkeypatch):
    """On the CPU, with clocks that are told what to say."""

    def unable(qkv):
        raise RuntimeError("No available kernel. Aborting execution.")

    sides = {"fused": reference.attention, "flash": unable, "cudnn": lambda qkv: reference.attention(qkv) * 1.1}
    sides["efficient"] = lambda qkv: reference.attention(qkv) * 1
    monkeypatch.setattr(attention_gpu, "SIDES", sides)
    ran = []

    def clock(run):
        run()
        return float(len(ran))

    def capture(step):
        return lambda: ran.append(step())

    r = attention_gpu.measure((2, 3, 5, 8), torch.float32, 3, "cpu", capture, clock)
    assert r["ms"] == {"fused": 5.0, "efficient": 6.0}  # medians of the turns after the first: 3 5 7 and 4 6 8
    assert r["left out"]["flash"].startswith("cannot: No available kernel") and "parity" in r["left out"]["cudnn"]
    assert all(grad.shape == (2, 5, 3, 3, 8) and grad.any() for (grad,) in ran)

    for ms in (2.0, 4.0):  # measured again: the newer row replaces the older
        attention_gpu.keep("NVIDIA X", [r | {"ms": {"fused": ms, "cudnn": 3.0}}], measured)
    attention_gpu.keep("NVIDIA Y", [r | {"ms": {}}], measured)
    assert attention._choices_of("NVIDIA X", torch.float32, 8) == ((5, "cudnn"),)
    assert attention._choices_of("NVIDIA Y", torch.float32, 8) == ()
