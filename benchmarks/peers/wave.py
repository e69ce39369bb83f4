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
READY, ROUNDS = 0.75, 0.9  # of the time, after which nobody is waited for, and no round begins
TURN = {"cuda": 60.0, "cpu": 600.0}  # seconds that one may take


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


def take_turns(wanted: list[Spec], work: dict, options: Options, after_round: Callable[[Wave], None]) -> Wave:
    """Start the sides, wait for all, give turns, profile."""
    wave, workers = Wave(), start(wanted, work, options.out / "logs")
    began = time.monotonic()
    seconds = min(LONGEST, options.until - began)
    steps = options.own.steps or {"cuda": 8, "cpu": 1}[options.device]

    def ask(side: Spec, command: dict) -> dict:
        return workers[side].ask(command, time.monotonic() + TURN[options.device])

    try:
        for side, worker in workers.items():
            answer = worker.answer(began + READY * seconds)
            if "error" in answer:
                wave.drop(side, answer)
            else:
                wave.ready[side], wave.rounds[side] = answer, []
        print(f"{len(wave.rounds)} of {len(wanted)} sides ready after {time.monotonic() - began:.0f} s", flush=True)
        for i in range(options.rounds_or(5)):
            if i and time.monotonic() > began + ROUNDS * seconds:
                break
            for side in list(wave.rounds):
                answer = ask(side, {"go": steps})
                if "error" in answer:
                    wave.drop(side, answer)
                else:
                    wave.rounds[side].append(answer)
            after_round(wave)
        for side in fastest(wave):
            if time.monotonic() < options.until:
                wave.kernels[side] = ask(side, {"profile": 3})
    finally:
        for worker in workers.values():
            worker.stop()
    return wave


def fastest(wave: Wave) -> list[Spec]:
    """Ours and the best peer, where they are there."""
    sides = [side for side in wave.rounds if side.name != ALONE]
    peers = sorted((side for side in sides if side.undone is None), key=lambda side: median(wave.seconds(side)))
    return [side for side in sides if side.undone == ""] + peers[:1]
