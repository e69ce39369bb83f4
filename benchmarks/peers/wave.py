"""Sides of a comparison as processes: all are started at once, those that get ready take turns, some are profiled."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.harness.options import Options
from benchmarks.harness.processes import LONGEST, Worker
from benchmarks.peers.sides import ALONE, Spec
from mae_fast.data.loader import available_cpus

WORKER = [sys.executable, "-m", "benchmarks.peers.worker"]
FIRST_STEPS = 4  # whose losses are kept
READY, ROUNDS = 0.7, 0.9  # of the time, after which nobody is waited for, and no round begins
TURN = {"cuda": 90.0, "cpu": 600.0}  # seconds that one may take


@dataclass
class Wave:
    """Sides that were alive together."""

    ready: dict[Spec, dict] = field(default_factory=dict)  # what each said of itself
    rounds: dict[Spec, list[dict]] = field(default_factory=dict)  # what it answered in each round
    notes: dict[Spec, str] = field(default_factory=dict)  # why another was not measured
    crowded: list[Spec] = field(default_factory=list)  # for want of memory
    kernels: dict[Spec, dict] = field(default_factory=dict)

    def drop(self, side: Spec, answer: dict) -> None:
        self.notes[side] = f"not run: {answer['error']}"
        self.crowded += [side] * answer.get("crowded", False)
        self.rounds.pop(side, None)

    def seconds(self, side: Spec) -> list[float]:
        return [median(answer["seconds"]) for answer in self.rounds[side]]


def start(wanted: list[Spec], work: dict, logs: Path) -> dict[Spec, Worker]:
    """All at once. work: what each is told beside its side."""
    threads = max(1, 3 * available_cpus() // len(wanted))  # while some compile, others import or run
    names = {side: f"{work['preset']}_{work['batch']}_{side}".replace(", ", "_").replace(" ", "_") for side in wanted}
    return {
        side: Worker(
            [*WORKER, json.dumps({"side": dataclasses.asdict(side)} | work)], logs / f"turns_{name}.log",
            {"TORCHINDUCTOR_COMPILE_THREADS": str(threads)},
        )
        for side, name in names.items()
    }  # fmt: skip


def take_turns(wanted: list[Spec], work: dict, options: Options, after_round: Callable[[Wave], None]) -> list[Wave]:
    """Start the sides, wait for all; then a wave after the other begins, takes turns, is profiled and stopped."""
    began, workers = time.monotonic(), start(wanted, work, options.out / "logs")
    seconds = min(LONGEST, options.until - began)
    try:
        first, ready = Wave(), {}
        for side, worker in workers.items():
            answer = worker.answer(began + READY * seconds)
            if "error" in answer:
                first.drop(side, answer)
            else:
                ready[side] = answer
        taken = time.monotonic() - began
        print(f"{len(ready)} of {len(wanted)} sides ready after {taken:.0f} s", flush=True)
        groups, waves = together(list(ready), options.device), []
        for i, group in enumerate(groups):
            wave = Wave({side: ready[side] for side in group}, {side: [] for side in group})
            waves.append(wave)
            if i == 0:
                wave.notes, wave.crowded = first.notes, first.crowded
            share = taken + (ROUNDS * seconds - taken) * (i + 1) / len(groups)
            _rounds(wave, workers, options, began + share, after_round)
            for side in fastest(wave) if i == 0 else []:
                if time.monotonic() < options.until:
                    wave.kernels[side] = workers[side].ask({"profile": 3}, time.monotonic() + TURN[options.device])
            for side in group:
                if not any(side in later for later in groups[i + 1 :]):
                    workers[side].stop()
    finally:
        for worker in workers.values():
            worker.stop()
    return waves or [first]


def together(ready: list[Spec], device: str) -> list[list[Spec]]:
    """Who is in memory at once. On CUDA ours with a choice undone come after the peers, beside ours once more: a step's
    graph keeps its activations, and those of all would fill most GPUs."""
    undone = [side for side in ready if side.undone]
    others = [side for side in ready if not side.undone]
    if device == "cpu" or not undone or not others:
        return [ready] if ready else []
    return [others, [side for side in others if side.undone == ""] + undone]


def _rounds(wave: Wave, workers: dict[Spec, Worker], options: Options, until: float, after_round) -> None:
    def each(sides: list[Spec], command: dict, take: Callable[[Spec, dict], None]) -> None:
        for side in sides:
            answer = workers[side].ask(command, time.monotonic() + TURN[options.device])
            if "error" in answer:
                wave.drop(side, answer)
            else:
                take(side, answer)

    new = [side for side in wave.rounds if "runs" not in wave.ready[side]]  # ours is in two waves
    each(new, {"begin": FIRST_STEPS}, lambda side, answer: wave.ready[side].update(answer))
    for i in range(options.rounds_or(5)):
        if i and time.monotonic() > until:
            break
        steps = options.own.steps or {"cuda": 8, "cpu": 1}[options.device]
        each(list(wave.rounds), {"go": steps}, lambda side, answer: wave.rounds[side].append(answer))
        after_round(wave)


def fastest(wave: Wave) -> list[Spec]:
    """Ours and the best peer, where they are there."""
    sides = [side for side in wave.rounds if side.name != ALONE]
    peers = sorted((side for side in sides if side.undone is None), key=lambda side: median(wave.seconds(side)))
    return [side for side in sides if side.undone == ""] + peers[:1]
