"""The prediction for many GPUs: what it was fitted to comes back, bytes are those of a ring, each limit is found."""

import json
from dataclasses import replace

import pytest

from benchmarks.__main__ import main
from benchmarks.counting import cluster as clusters
from benchmarks.counting.cluster import STRATEGIES, Cluster, exchange, one_pass
from benchmarks.counting.roofline import Gpu
from benchmarks.counting.scaling import CHANGES, Loading, StepCost, memory, needs, predict
from benchmarks.reports.costs import MEASURED, costs, loading
from benchmarks.reports.results import results
from mae_fast.train import distributed

COST = StepCost(1e-4, 1e-3, 1e-3, 1e-2, "made up")
PLENTY = Loading(1e9, 1)


def test_the_measured_steps_come_back():
    seen = set()
    for row in results(MEASURED, "turns"):
        if row["side"] == "ours CUDA graph":
            assert costs()[row["preset"]](row["batch"]) == pytest.approx(row["median_s"])
            seen.add((row["preset"], row["batch"]))
    assert seen == {("base", 256), ("base", 64), ("large", 128), ("small", 256)}
    assert costs()["base"].launch == 0.0497 and "estimated" in costs()["huge"].source
    assert costs()["huge"](64) > 2 * costs()["large"](64)
    assert loading() == Loading(pytest.approx(6706.8, abs=0.1), 16)


def test_an_unmeasured_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: no turns"):
        costs(tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}: no data.json"):
        loading(tmp_path)


@pytest.mark.parametrize("gpus", [1, 2, 8, 12, 64, 512])
def test_bytes_are_those_of_a_ring(gpus):
    P, share = 1000, (gpus - 1) / gpus
    for strategy, size in {"ddp": 2 * 4, "ddp-bf16": 2 * 2, "fsdp": 3 * 4}.items():
        assert exchange(strategy, P, gpus, Cluster()).sent == pytest.approx(share * size * P)
    assert (one_pass(P, gpus, Cluster()).network > 0) == (gpus > 8)


def test_what_is_hidden():
    made = clusters.Exchange((clusters.Pass(seconds=3.0, buckets=3),), (clusters.Pass(seconds=8.0, buckets=4),))
    assert made.exposed(forward=10, backward=20) == 1 + 2  # one bucket finds nothing to hide behind
    assert made.exposed(forward=0, backward=2) == 3 + 6
    assert clusters.Exchange((), ()).exposed(1, 1) == 0


def test_every_assumption_has_a_unit_and_a_source():
    named = clusters.assumptions(Cluster())
    assert len(named) > 10 and all(unit and source for _, _, unit, source in named)


@pytest.mark.parametrize(
    "limit, gpus, how, machine, loads",
    [
        ("compute", 8, {}, {}, PLENTY),
        ("launches", 64, {}, {}, PLENTY),
        (
            "small batches",
            512,
            {"graph": True, "strategy": "ddp-bf16"},
            {"network": 1e15, "network_latency": 0},
            PLENTY,
        ),
        ("network", 64, {"graph": True}, {"network": 1e9}, PLENTY),
        ("data", 8, {}, {}, Loading(100.0, 14)),
        ("data", 8, {}, {"storage": 1e6}, PLENTY),
        ("memory", 1, {}, {"gpu": Gpu(1, 1, 12e9)}, PLENTY),
    ],
)
def test_each_limit_is_found(limit, gpus, how, machine, loads):
    made = predict("base", gpus, COST, loads, batch=512, cluster=replace(Cluster(), **machine), **how)
    assert made.limit == limit and limit in CHANGES
    assert 0 <= made.images - 4096 < gpus * made.accumulate  # the last image of each batch may be one too many
    assert made.images_per_s == made.images / made.step
    assert made.dollars(2.0) == pytest.approx(2 * gpus * 800 * 1281167 / made.images_per_s / 3600)
    assert made.memory <= 0.9 * machine.get("gpu", Cluster().gpu).memory


def test_one_gpu_exchanges_nothing_and_has_a_graph():
    made = predict("base", 1, COST, PLENTY, batch=256)
    assert (made.network, made.sent, made.launches, made.accumulate) == (0, 0, 0, 16)
    assert made.step == pytest.approx(COST(256, 16)) and made.efficiency == pytest.approx(1)


def test_fsdp_exchanges_with_every_batch_and_splits_what_it_holds():
    both = [predict("huge", 8, COST, PLENTY, batch=64, strategy=name) for name in ("ddp", "fsdp")]
    assert both[0].exchanges == 1 and both[1].exchanges == both[1].accumulate == 8
    assert both[1].sent == pytest.approx(8 * 1.5 * both[0].sent) and both[1].memory < both[0].memory / 2
    little = replace(Cluster(), gpu=Gpu(1, 1, 12e9))
    with pytest.raises(ValueError, match=r"huge needs 1\d GB on each of 8 before one image; try fsdp"):
        predict("huge", 8, COST, PLENTY, batch=1, cluster=little)
    assert predict("huge", 8, COST, PLENTY, batch=1, cluster=little, strategy="fsdp").accumulate == 512


def test_memory_is_that_of_the_step(monkeypatch):
    alone = memory(needs("base")[0], "ddp", 2)
    needs.cache_clear()
    monkeypatch.setattr(distributed, "size", lambda: 2)
    assert needs("base")[0].fixed == alone[0]
    needs.cache_clear()


def test_command_line(tmp_path, capsys):
    file = tmp_path / "many.json"
    words = ["--model-only", "--gpus=1,64", "--preset", "base", "--batch", "32", "--price", "2"]
    assert main([*words, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "Predicted" in out and "not measured" in out and "Where the limit is launches" in out
    rows = json.loads(file.read_text())["rows"]
    assert [row["gpus"] for row in rows] == [1] + [64] * 2 * len(STRATEGIES) and rows[-1]["accumulate"] == 2
    assert rows[0]["dollars"] == pytest.approx(2 * rows[0]["hours"])
    with pytest.raises(SystemExit):
        main(["--model-only", "--gpus", "0"])
