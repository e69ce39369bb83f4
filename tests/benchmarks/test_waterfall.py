"""mae-fast bench waterfall: each bar runs what its name says, a wrong one is refused, and the picture is drawn."""

import re
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mae_fast
from benchmarks.__main__ import main
from benchmarks.harness import options as shared
from benchmarks.harness.record import Record, read
from benchmarks.harness.timing import Clock, take_turns
from benchmarks.parts import waterfall
from benchmarks.reports import plots
from mae_fast import reference

NAMES = ["plain PyTorch, fp32", *(name for name, _ in waterfall.CHANGES)]


@pytest.fixture(autouse=True)
def no_code_generator(monkeypatch):
    """Inductor takes a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))


@pytest.fixture
def eager(monkeypatch):
    bars = waterfall.bars
    monkeypatch.setattr(waterfall, "bars", lambda device: [bar for bar in bars(device) if not bar.compiled])


def run(tmp_path):
    flags = ["waterfall", "--device", "cpu", "--quick", "--rounds", "2", "--out", str(tmp_path)]
    options = shared.of(flags)
    assert waterfall.run(options) == 0
    return {row["side"]: row for row in plots.results(tmp_path, "waterfall")}


class FusedOps(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "mae_fast":
            self.seen.add(func.__name__.split(".")[0].removesuffix("_backward"))
        return func(*args, **(kwargs or {}))


def test_bars_run_what_they_say(tmp_path, monkeypatch, eager):
    ran, call = {}, waterfall.call

    def watched(bar, *arguments):
        with FusedOps() as ops:
            result = call(bar, *arguments)
        ran.setdefault(bar.name, set()).update(ops.seen)
        return result

    monkeypatch.setattr(waterfall, "call", watched)
    run(tmp_path)
    fused = {"random_masking", "gather_patches", "masked_mse"}
    if mae_fast.backends()["bias_gelu"]["cpu"] == "cpp":  # else these two are the plain expressions
        fused |= {"bias_gelu", "add_layer_norm"}
    assert [ran[name] for name in NAMES[:-1]] == [set()] * 4 + [fused, fused | {"attention"}]


def test_every_bar_finds_no_gradients_as_its_own_run_would_leave_it():
    kwargs = mae_fast.config.TINY.kwargs() | {"img_size": 32}
    model = mae_fast.MaskedAutoencoderViT(**kwargs)
    optimizer = waterfall.make_optimizer(model, "adamw", 1e-3, 0.05)
    bar = waterfall.Bar("x", fast=True, fused_adamw=True)
    step = waterfall.build(bar, model.state_dict(keep_vars=True), kwargs, optimizer, None, torch.float32)
    step.backward(torch.zeros(1, 3, 32, 32))
    waterfall.prepare(bar, step, torch.zeros(1, 3, 32, 32))
    assert all(p.grad is None for p in model.parameters())


def test_a_row_a_bar_and_a_picture(tmp_path):
    rows = run(tmp_path)
    assert list(rows) == [*NAMES, "products alone"]
    assert [row["dtype"] for row in rows.values()] == ["fp32"] + ["bf16"] * 7
    for row in rows.values():
        assert not row["note"] and len(row["seconds"]) == 2
        assert row["images_per_s"] == pytest.approx(4 / row["median_s"])
        assert row["of_limit"] == pytest.approx(rows["products alone"]["median_s"] / row["median_s"])
    assert rows[NAMES[0]]["x_first"] == rows[NAMES[0]]["x_before"] == 1
    assert [file.name for file in plots.draw_all(tmp_path)] == ["waterfall.svg"]


def test_a_wrong_bar_is_named_and_passed_over(tmp_path, monkeypatch, eager):
    monkeypatch.setitem(waterfall.PLAIN, "masked_mse", lambda *arguments: 1.01 * reference.masked_mse(*arguments))
    rows = run(tmp_path)
    wrong, after = rows[NAMES[3]], rows[NAMES[4]]
    assert re.match("fails parity, not timed: (loss|gradient)", wrong["note"]) and "seconds" not in wrong
    a, b = (rows[name]["seconds"] for name in (NAMES[2], NAMES[4]))
    assert after["x_before"] == pytest.approx((a[0] / b[0] + a[1] / b[1]) / 2)


def test_what_was_measured_stays_when_the_run_is_stopped(tmp_path):
    """Rows are written after each round, and a later round's replace them."""
    seen = []

    def stopped(seconds, limit=2):
        seen.append({name: len(values) for name, values in seconds.items()})
        if len(seen) == limit:
            raise KeyboardInterrupt

    record = Record(tmp_path / "some.json", {})
    sides = {"a": lambda: lambda: None, "b": lambda: lambda: None}

    def rows(seconds):
        record.put([{"part": "x", "side": name, "rounds": len(values)} for name, values in seconds.items()])
        stopped(seconds)

    with pytest.raises(KeyboardInterrupt):
        take_turns(sides, tuple, 5, Clock("cpu"), label=None, after_round=rows)
    assert seen == [{"a": 1, "b": 1}, {"a": 2, "b": 2}]
    assert [row["rounds"] for row in read(record.file)["rows"]] == [2, 2]


@pytest.mark.parametrize("part", ["waterfall", "scaling"])
def test_a_part_that_is_stopped_leaves_its_rounds(eager, part, tmp_path, monkeypatch):
    put, calls = Record.put, []

    def stop_after_two(record, rows):
        put(record, rows)
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Record, "put", stop_after_two)
    words = [part, "--device=cpu", "--quick", "--rounds=4", f"--out={tmp_path}"]
    with pytest.raises(KeyboardInterrupt):
        main(words)
    written = read(tmp_path / f"{part}_tiny.json")["rows"]
    assert written and {len(row["seconds"]) for row in written if "seconds" in row} == {2}
