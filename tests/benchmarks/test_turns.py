"""mae-fast bench turns: all start at once and take turns in order; who dies or is late is a row with a note."""

import json
import sys

import pytest

from benchmarks.counting import kernels
from benchmarks.harness import options, record
from benchmarks.parts import turns
from benchmarks.peers import wave
from benchmarks.peers.sides import ALONE, UNDONE, Spec, turns_specs
from mae_fast import config
from tests.benchmarks.small import QUICK, bench

# Stands in for benchmarks.peers.worker: says when it began and when it had a turn; how it behaves goes by its side.
WORKER = """
import json, sys, time
from benchmarks.harness.processes import commands
work, file = json.loads(sys.argv[1]), sys.argv[2]
name = work["side"]["name"]
def note(what):
    with open(file, "a") as f:
        f.write(f"{what} {name}\\n")
say, asked = commands()
note("start")
while open(file).read().count("start") < 4:  # for ever, were they started one after the other
    time.sleep(0.05)
behaviour = json.loads(sys.argv[3]).get(name, "")
if behaviour == "dies":
    raise SystemExit("no such model")
if behaviour == "late":
    time.sleep(300)
if behaviour == "crowded" and open(file).read().count("start " + name) == 1:
    say(error="OutOfMemoryError: full", crowded=True)
    sys.exit()
note("ready")
say(ready=3.0, parameters=5)
for command in asked:
    if "begin" in command:
        say(bytes=100, losses=[1.0], runs="eager")
        continue
    note("turn" if "go" in command else "profile")
    if behaviour == "dies in its turn":
        raise SystemExit("lost")
    if "go" in command:
        say(seconds=[2.0 if name == "ours" else 3.0] * command["go"], wall_s=2.5)
    else:
        say(kernels=[["sm90_gemm", 2, 0.5], ["_attention_fwd_kernel", 1, 0.25]])
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(behaviours, flags) -> (rows by side, what happened in order)."""
    events = tmp_path / "events"

    def measured(behaviours, *flags):
        monkeypatch.setattr(wave, "WORKER", [sys.executable, "-c", WORKER])
        start = wave.Worker
        monkeypatch.setattr(wave, "Worker", lambda command, log, env: start(
            [*command, str(events), json.dumps(behaviours)], log, env))  # fmt: skip
        sides = ["ours bf16", "as shipped", "Hugging Face compiled"]
        flags = [*QUICK, "--out", str(tmp_path), "--sides", ",".join(sides), *flags]
        assert turns.run(options.of(["turns", *flags])) == 0
        rows = {row["side"]: row for row in record.read(tmp_path / "turns_tiny.json")["rows"]}
        return rows, events.read_text().splitlines()

    return measured


NAMES = ["ours", "official as shipped", "Hugging Face compiled", ALONE]


def test_all_start_at_once_and_take_turns_in_order(run, tmp_path):
    rows, happened = run({})
    assert list(rows) == NAMES
    assert sorted(happened[:4]) == sorted(f"start {name}" for name in NAMES)
    assert happened[8:16] == [f"turn {name}" for name in NAMES] * 2
    assert happened[16:] == ["profile ours", "profile official as shipped"]
    ours, theirs = rows["ours"], rows["official as shipped"]
    assert ours["seconds"] == [2.0, 2.0] and ours["images_per_s"] == 2 and ours["x_ours"] == 1
    assert theirs["x_ours"] == 1.5 and theirs["of_limit"] == 1 and ours["limit_s"] == 3
    memory = {row["side"]: row for row in record.read(tmp_path / "memory_tiny.json")["rows"]}
    assert list(memory) == NAMES[:3] and memory["ours"]["of_limit"] == 0.8
    found = record.read(tmp_path / "kernels_tiny.json")["rows"]
    assert {row["side"] for row in found} == set(NAMES[:2])
    taken = {row["op"]: row["kernel_s"] for row in found[:3]}
    assert taken == {"matrix products": 0.5, "attention, forward": 0.25, "attention, backward": 0}


def test_who_dies_or_is_late_is_named_and_the_others_go_on(run):
    behaviours = {"ours": "dies", "official as shipped": "late", "Hugging Face compiled": "dies in its turn"}
    rows, _ = run(behaviours, "--seconds", "16")
    assert list(rows) == NAMES
    assert rows["ours"]["note"].startswith("not run: ended with exit code 1;")
    assert rows["ours"]["note"].endswith(": no such model")
    assert rows["official as shipped"]["note"].startswith("not run: no time left: no answer in")
    assert rows["Hugging Face compiled"]["note"].endswith(": lost") and "seconds" not in rows["Hugging Face compiled"]
    assert rows[ALONE]["seconds"] and not rows[ALONE]["note"]


def test_who_found_no_memory_is_started_again_beside_ours(run):
    rows, happened = run({"Hugging Face compiled": "crowded"})
    assert all(row["seconds"] == [3.0 if name != "ours" else 2.0] * 2 for name, row in rows.items())
    again = happened[happened.index("profile official as shipped") + 1 :]
    assert {line for line in again if "start" in line} == {"start Hugging Face compiled", "start ours"}
    assert rows["Hugging Face compiled"]["x_ours"] == 1.5


def test_undone_choices_compile_with_all_and_take_turns_beside_ours(run, monkeypatch):
    together = wave.together
    monkeypatch.setattr(wave, "together", lambda ready, device: together(ready, "cuda"))
    rows, happened = run({}, "--sides", "ours bf16,as shipped,no compile")
    assert sum("start" in line for line in happened) == 4
    turns = [line.removeprefix("turn ") for line in happened if "turn" in line]
    assert turns == ["ours", "official as shipped", ALONE] * 2 + ["ours", "ours, no compile"] * 2
    assert [rows[name]["x_ours"] for name in ("official as shipped", "ours, no compile")] == [1.5, 1.5]
    assert all(row["limit_s"] == 3 and not row["note"] for row in rows.values())


def test_real_sides_in_processes_of_their_own(tmp_path, monkeypatch, clone):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    flags = ["--sides", "ours bf16,as shipped", "--official", str(clone), "--rounds", "1", "--batch", "2"]
    assert bench("turns", *QUICK, "--out", str(tmp_path / "out"), *flags) == 0
    content = record.read(tmp_path / "out" / "turns_tiny_2.json")
    ours, theirs, alone = content["rows"]
    assert not ours["note"] and not theirs["note"] and len(alone["seconds"]) == 1
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=0.01), "the same weights, images and masks"
    assert ours["runs"] == "eager" and 0 < theirs["error_of_gradient"] < 1e-5 < ours["error_of_gradient"]
    memory = record.read(tmp_path / "out" / "memory_tiny_2.json")["rows"]
    assert all(row["bytes"] > row["limit_bytes"] > 0 for row in memory)
    found = {row["op"]: row for row in record.read(tmp_path / "out" / "kernels_tiny_2.json")["rows"][:9]}
    assert found["matrix products"]["kernel_s"] > 0 and found["AdamW, gradient norm"]["launches"] > 0


def test_on_a_gpu_undone_choices_come_after_the_peers_beside_ours():
    first, second = wave.together(list(turns_specs("bf16", "cuda")), "cuda")
    assert [spec.name for spec in second] == ["ours", *(f"ours, {choice}" for choice in UNDONE)]
    assert first[0] == second[0] and not any(spec.undone for spec in first) and first[-1].name == ALONE
    assert wave.together([], "cuda") == [] and len(wave.together(list(turns_specs("bf16", "cpu")), "cpu")) == 1


def test_sides():
    names = [spec.name for spec in turns_specs("bf16", "cuda")]
    assert names[0] == "ours" and names[-1] == ALONE and {f"ours, {choice}" for choice in UNDONE} < set(names)
    assert Spec("official as shipped", "official", "fp16") in turns_specs("bf16", "cuda")


def test_least_times_are_those_of_the_rates_measured(tmp_path):
    rows = [
        {"side": "copy", "rate": 3000.0, "unit": "GB/s"},
        {"side": "square", "rate": 800.0, "unit": "TFLOP/s", "dtype": "bf16"},
        {"side": "square", "rate": 900.0, "unit": "TFLOP/s", "dtype": "fp16"},
    ]
    assert kernels.rates(tmp_path / "limits.json", "bf16") is None
    record.Record(tmp_path / "limits.json", {}).add(rows)
    gpu = kernels.rates(tmp_path / "limits.json", "bf16")
    assert (gpu.peak, gpu.bandwidth) == (8e14, 3e12)
    least = kernels.least_seconds(config.BASE, 256, gpu)
    work = kernels.roofline.work(config.BASE, 256)
    rest = sum(seconds for name, seconds in least.items() if name.split(",")[0] not in ("matrix products", "attention"))
    assert min(least.values()) > 0 and rest == pytest.approx(work.rest / gpu.bandwidth, rel=0.01)
    attention = least["attention, forward"] + least["attention, backward"]
    assert attention == pytest.approx(kernels.roofline.seconds(work.attention, gpu))
