"""Who computes attention: what `auto` chooses, and the benchmark of all who can."""

import contextlib
import importlib.util
import sys
import weakref
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch

import mae_fast
from benchmarks.__main__ import main
from benchmarks.harness import record
from benchmarks.parts import attention as bench
from mae_fast import reference
from mae_fast.model import attention


@pytest.mark.parametrize("device, chosen", [("cpu", "fused"), ("meta", "sdpa")])
def test_auto_is_fused_where_the_dispatcher_has_a_kernel(monkeypatch, device, chosen):
    called = []
    monkeypatch.setattr(attention, "FUSED", {"cpu"})
    monkeypatch.setattr(attention, "sdpa", lambda qkv: called.append("sdpa"))
    monkeypatch.setattr(attention.ops, "attention", lambda qkv: called.append("fused"))
    attention.auto(torch.empty(1, 5, 3, 2, 8, device=device))
    assert called == [chosen]


def test_fused_devices_are_asked_of_the_dispatcher():
    """C++ where it is built, Triton where it is installed."""
    assert ("cpu" in attention.FUSED) == any(name.startswith("mae_fast._C") for name in sys.modules)
    assert ("cuda" in attention.FUSED) == (importlib.util.find_spec("triton") is not None)


@pytest.mark.parametrize("fused", [set(), {"cpu"}])
def test_auto_compiles_to_one_graph(monkeypatch, fused):
    monkeypatch.setattr(attention, "FUSED", fused)
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
    assert main(["attention", *flags, "--out", str(tmp_path)]) == 0
    rows = record.read(tmp_path / "attention.json")["rows"]
    assert [row["side"] for row in rows] == [*sides, "products alone"] * 2
    fused, flash, cudnn, efficient, products = rows[:5]
    assert flash["note"] == "not run: RuntimeError: No available kernel. Aborting execution."
    assert cudnn["note"].startswith("fails parity, not timed: ") and "seconds" not in cudnn
    for row in (fused, efficient):
        assert len(row["seconds"]) == 3 and row["of_limit"] == pytest.approx(row["limit_s"] / row["median_s"])
    assert fused["x_ours"] == 1 and products["median_s"] > 0
    with pytest.raises(SystemExit):
        main(["attention", "--device", "cpu", "--shapes", "2x3x5"])


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


def test_xformers_that_cannot_be_loaded_is_one_sentence_at_construction(monkeypatch):
    size = dict(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                decoder_num_heads=2)  # fmt: skip
    monkeypatch.setitem(sys.modules, "xformers", None)
    with pytest.raises(ImportError, match="xformers is not installed; install the xformers that was built for your"):
        mae_fast.MaskedAutoencoderViT(**size, attention="xformers")
    fake = ModuleType("xformers")
    error = RuntimeError("many lines")
    error.build_info = SimpleNamespace(torch_version="2.10.0+cu128")
    fake.__version__, fake._cpp_lib = "0.0.35", SimpleNamespace(_cpp_library_load_exception=error)
    monkeypatch.setitem(sys.modules, "xformers", fake)
    with pytest.raises(ImportError, match=r"xformers 0\.0\.35 was built for PyTorch 2\.10\.0\+cu128 and does not load"):
        mae_fast.MaskedAutoencoderViT(**size, attention="xformers")
    fake._cpp_lib._cpp_library_load_exception = None
    mae_fast.MaskedAutoencoderViT(**size, attention="xformers")
