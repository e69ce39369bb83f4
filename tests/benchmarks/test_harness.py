"""How benchmarks time, summarise and compare."""

import json
import os
import random
import statistics
import time

from benchmarks.harness import provenance, timing
from tests.benchmarks.small import bench, result


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


def test_a_copy_without_git_says_so(tmp_path, monkeypatch):
    facts = provenance.provenance("cpu", "benchmarks", [])
    assert facts["commit"] and isinstance(facts["clean"], bool)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)  # no history
    for path in (os.environ["PATH"], ""):  # and no git either
        monkeypatch.setenv("PATH", path)
        facts = provenance.provenance("cpu", "benchmarks", [])
        assert facts["commit"] == "unknown" and facts["clean"] is False
