"""What training together costs: one process on one core, beside two that train together, each with as much to do.

    mae-fast bench ranks [--presets small] [--batch 32] [--dtypes bf16] [--ranks 2] [--rounds 7]

Every process has a core of its own and one thread, and the same images a step; the sides take turns:

* alone: one process;
* apart: as many as there are ranks, at the same time, that know nothing of each other: what they lose, they lose to
  memory, caches and clocks that the cores share;
* ranks: DistributedDataParallel over gloo, which adds the exchange of gradients and the wait for the slower one.

`x alone` is the time of a step over that of one process alone, round by round, median; the goal is 1.15. `exchange` is
the time of the same all-reduce with nothing to hide behind, `MB sent` what really went over the loopback device a step,
by all ranks together: a ring's 2 (n - 1) times the gradients. On a core that is busy nothing hides behind anything, so
the exchange costs the less the more images a step has. A CPU only, and no more ranks than it has cores.
"""

import argparse
import json
import os
import socket
import sys
import time
from statistics import median

from tqdm import tqdm

from benchmarks.harness import table
from benchmarks.harness.options import Options, count
from benchmarks.harness.processes import Worker
from benchmarks.harness.provenance import cpu_wait
from benchmarks.harness.timing import summary

WORKER = [sys.executable, "-m", "benchmarks.peers.rank"]
GOAL, TURN, LONGEST = 1.15, 2.0, 900.0  # times alone; seconds of a side's turn, at least one step; for any answer


class Side:
    """Processes that take steps at the same time. together: as ranks of one job."""

    def __init__(self, name: str, cores: list[int], work: dict, options: Options, together: bool):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}" if together else ""
        self.name, self.workers = name, []
        for rank, core in enumerate(cores):
            told = work | {"rank": rank, "ranks": len(cores), "core": core, "address": address}
            log = options.out / "logs" / f"ranks_{work['preset']}_{name}_{rank}.log"
            self.workers.append(Worker([*WORKER, json.dumps(told)], log, {"GLOO_SOCKET_IFNAME": "lo"}))

    def answers(self) -> list[dict]:
        """Of each process. RuntimeError where one has died or is late."""
        until = time.monotonic() + LONGEST
        said = [worker.answer(until) for worker in self.workers]
        if wrong := next((answer["error"] for answer in said if "error" in answer), ""):
            raise RuntimeError(f"{self.name}: {wrong}")
        return said

    def take(self, what: str, n: int) -> tuple[float, float | None]:
        """-> (seconds, bytes sent) of one of n steps or exchanges, by the slowest process."""
        for worker in self.workers:
            worker.tell({what: n})
        said = self.answers()
        return max(answer["seconds"] for answer in said), said[0]["sent"]

    def stop(self) -> None:
        for worker in self.workers:
            worker.stop()


def measure(work: dict, cores: list[int], options: Options) -> list[dict]:
    """A row a side, after a round that does not count."""
    sides: list[Side] = []
    try:
        for name, own in (("alone", cores[:1]), ("apart", cores), ("ranks", cores)):
            sides.append(Side(name, own, work, options, together=name == "ranks"))
        size = max(side.answers()[0]["gradient_bytes"] for side in sides)  # all are ready then
        n = 1 if options.quick else max(1, round(TURN / sides[0].take("steps", 2)[0]))
        taken = {side.name: [] for side in sides}
        exchanges = []
        for turn in tqdm(range(options.rounds_or(7) + 1), unit=" rounds", leave=False):
            if turn > 1 and time.monotonic() > options.until:
                break
            for side in sides:
                result = side.take("steps", n)
                if turn:
                    taken[side.name].append(result)
            if turn:
                exchanges.append(sides[-1].take("exchanges", n)[0])
    finally:
        for side in sides:
            side.stop()
    rows, alone = [], [seconds for seconds, _ in taken["alone"]]
    for side in sides:
        seconds = [entry[0] for entry in taken[side.name]]
        row = {"part": "ranks", "preset": work["preset"], "dtype": work["dtype"], "batch": work["batch"]}
        row |= {"ranks": len(side.workers), "side": side.name, "seconds": seconds, **summary(seconds)}
        row["x_alone"] = median(own / one for own, one in zip(seconds, alone, strict=True))
        row["images_per_s"] = len(side.workers) * work["batch"] / row["median_s"]
        rows.append(row)
    sent = [entry[1] for entry in taken["ranks"] if entry[1] is not None]
    rows[-1] |= {"exchange_s": median(exchanges), "gradient_bytes": size, "sent_bytes": median(sent) if sent else None}
    return rows


COLUMNS = {
    "side": lambda row: row["side"],
    "processes": lambda row: str(row["ranks"]),
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": table.ms,
    "x alone": lambda row: f"{row['x_alone']:.3f}",
    "exchange, ms": lambda row: f"{row['exchange_s'] * 1e3:.3g}",
    "MB of gradients": lambda row: f"{row['gradient_bytes'] / 1e6:.4g}",
    "MB sent": lambda row: f"{row['sent_bytes'] / 1e6:.4g}",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=count, default=2)


def run(options: Options) -> int:
    if options.device != "cpu":
        raise ValueError("--device: ranks compares cores of a CPU; add --device cpu, or take `mae-fast bench scaling`")
    cores, wanted = sorted(os.sched_getaffinity(0)), options.own.ranks
    if wanted < 2 or wanted > len(cores):
        raise ValueError(
            f"--ranks: expected 2 to {len(cores)}, a core for each that this process may use; got {wanted}"
        )
    record, dtype = options.record("ranks"), next(iter(options.dtypes))
    record.facts |= {"goal": GOAL, "cores": cores[:wanted], "waiting": []}
    worst = 0.0
    for name in options.presets if options.own.presets or options.quick else ["small"]:
        work = {"preset": name, "dtype": dtype, "img_size": options.img_size, "batch": options.batch_of(name)}
        began, waited = time.perf_counter(), cpu_wait()
        try:
            rows = measure(work, cores[:wanted], options)
        except RuntimeError as error:  # a process died, or is late
            record.add([{"part": "ranks", **work, "side": "ranks", "note": f"not run: {error}"}])
            raise OSError(f"{name}: {error}; its log is in {options.out / 'logs'}") from error
        if waited is not None:
            record.facts["waiting"].append((cpu_wait() - waited) / (time.perf_counter() - began))
        record.add(rows)
        worst = max(worst, rows[-1]["x_alone"])
        print(f"\n{name}, {dtype}, {work['batch']} images a process and step")
        print(table.screen(rows, COLUMNS))
        print(verdict(rows), flush=True)
    return 0 if options.quick or worst <= GOAL else 1


def verdict(rows: list[dict]) -> str:
    """How much longer a step of ranks takes, and to what."""
    apart, ranks = rows[1]["x_alone"], rows[2]["x_alone"]
    more = f"a step of {rows[2]['ranks']} ranks takes {ranks - 1:+.1%}, of which {apart - 1:+.1%} without any exchange"
    return f"{more}: {'within' if ranks <= GOAL else 'NOT within'} {GOAL - 1:.0%}"
