"""mae-fast bench blocks: every table of options is found and tried, results stay, nothing stays changed."""

import pytest
import torch

pytest.importorskip("triton")
from importlib import import_module

from benchmarks.parts import blocks
from mae_fast.parity.cases import Case
from tests.benchmarks.small import QUICK, bench

IMAGES = dict(B=2, C=3, p=4, grid=(2, 2), ratio=0.5, layout="uint8")
CASES = [
    Case("add_layer_norm", dict(B=3, D=24)),
    Case("attention", dict(B=1, N=5, H=2, D=16)),
    Case("bias_gelu", dict(B=3, D=24)),
    Case("gather_patches", IMAGES),
    Case("masked_mse", IMAGES | {"all_rows": False, "norm_pix": True}),
    Case("random_masking", dict(B=2, L=9, ratio=0.5)),
    Case("unshuffle", dict(B=2, L=6, D=8, ratio=0.5)),
]


def tables():
    modules = {path for case in CASES for path in blocks.MODULES.get(case.op, [case.op])}
    found = {}
    for name in modules:
        module = import_module(f"mae_fast_kernels.{name}")
        found |= {(name, table): getattr(module, table) for table in ("FORWARD", "BACKWARD") if hasattr(module, table)}
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.op)
def test_the_fastest_options_are_found_and_nothing_stays_changed(case, implementation):
    before, tried = {name: repr(table) for name, table in tables().items()}, []

    def first_is_fastest(calls):
        tried.extend(calls)
        for call in calls.values():
            call()
        return {name: i + 1.0 for i, name in enumerate(calls)}

    with implementation("triton"):
        for direction in ["forward", "backward"][: 1 if case.op in ("random_masking", "gather_patches") else 2]:
            call = blocks.prepare(case, direction, torch.float32, "cpu")
            entries = blocks.entries_read(case.op, direction, call)
            assert entries, direction
            for entry in entries:
                best, shipped_s, best_s, notes = blocks.sweep(entry, call, first_is_fastest, until=float("inf"))
                assert best != entry.shipped and best.keys() == entry.shipped.keys() and best_s <= shipped_s, notes
                assert not [note for note in notes if "other results" in note]
    assert len(tried) > 5 and {name: repr(table) for name, table in tables().items()} == before


def test_options_are_also_tried_together(implementation, monkeypatch):
    entry = blocks.Entry("bias_gelu", "FORWARD")
    monkeypatch.setitem(blocks.TOGETHER, str(entry), [{"BLOCK": 512, "num_warps": 1}])
    seconds = {(512, 1): 1.0, (2048, 4): 2.0}
    call = lambda: (torch.tensor([seconds.get((entry.shipped["BLOCK"], entry.shipped["num_warps"]), 3.0)]),)  # noqa: E731
    monkeypatch.setattr(torch, "allclose", lambda *args, **kwargs: True)
    best, shipped_s, best_s, notes = blocks.sweep(
        entry, call, lambda calls: {name: call()[0].item() for name, call in calls.items()}, until=float("inf")
    )
    assert (best["BLOCK"], best["num_warps"], shipped_s, best_s, notes) == (512, 1, 2.0, 1.0, [])


def test_options_that_fail_or_change_results_are_not_taken(implementation):
    entry, good = blocks.Entry("bias_gelu", "FORWARD"), torch.ones(3)

    def call():
        block = entry.shipped["BLOCK"]
        if block > 2048:
            raise RuntimeError("out of resource: shared memory\nmore")
        return (good * (1 if block == 2048 else 2),)

    def all_alike(calls):
        return dict.fromkeys(calls, 1.0)

    best, *_, notes = blocks.sweep(entry, call, all_alike, until=float("inf"))
    assert best == entry.shipped
    assert notes[:2] == ["BLOCK 1024: other results", "BLOCK 4096: RuntimeError: out of resource: shared memory"]
    *_, notes = blocks.sweep(entry, call, all_alike, until=0)
    assert notes == ["BLOCK not tried: no time left", "num_warps not tried: no time left"]


def test_without_a_gpu_there_is_nothing_to_sweep(tmp_path, capsys):
    assert bench("blocks", *QUICK, "--out", str(tmp_path)) == 0
    assert "nothing to sweep" in capsys.readouterr().out
