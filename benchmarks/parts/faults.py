"""Faults injected into runs of a tiny model, each for real, in processes: what the user sees, and what was lost.

    mae-fast bench faults [--times N] [--only WORDS]

Every run that goes on must end as an undisturbed one does, bit for bit: the losses of all epochs, weights and moments.
"""

import argparse
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.faults import disk, inputs, ranks, signals
from benchmarks.faults.scene import Outcome, Scene
from benchmarks.harness import table
from benchmarks.harness.options import Options, count, listed
from benchmarks.harness.record import read, reason


@dataclass(frozen=True)
class Fault:
    name: str
    inject: Callable[[Scene], Outcome]
    outcome: str  # what becomes of the run, in the table's words


FAULTS = [
    Fault("SIGTERM", signals.terminated, "checkpoint, exit code 143"),
    Fault("SIGUSR1", signals.requeued, "checkpoint, exit code 75"),
    Fault("disk full for a while", disk.full_for_a_while, "a warning, and the next epoch's end saves"),
    Fault("disk full to the end", disk.full_to_the_end, "exit code 1 at the last save; resumed"),
    Fault("disk full, then SIGTERM", disk.full_when_stopped, "exit code 1; resumed from the last save"),
    Fault("file size limit below a checkpoint's", disk.file_too_large, "exit code 1 at the last save"),
    Fault("output read-only for a while", disk.read_only, "a warning, and the next epoch's end saves"),
    Fault("output read-only at the start", disk.read_only_at_the_start, "exit code 1 at once"),
    Fault("newest checkpoint: a bit flipped", disk.flipped, "named; resumed from the one before"),
    Fault("newest checkpoint: truncated", disk.truncated, "named; resumed from the one before"),
    Fault("two runs, one output_dir", ranks.two_runs, "the second: exit code 2, nothing written"),
    Fault("WORLD_SIZE without RANK", ranks.half_set, "exit code 1 at once"),
    Fault("rank of two killed", ranks.killed, "the other names it, exit code 1"),
    Fault("rank of two stopped", ranks.stopped, "the other names it, exit code 1"),
    Fault("rank killed, torchrun --max-restarts=1", ranks.restarted, "both restart and go on"),
    Fault("loader's processes stopped", inputs.stalled, "checkpoint, exit code 1; resumed"),
    Fault("loader's /dev/shm full", disk.full_shared_memory, "exit code 1, with the remedy"),
    Fault("5 % of the images broken", inputs.broken_images, "skipped and counted"),
    Fault("one loss is no number", inputs.one_loss_is_no_number, "the step is skipped and counted"),
    Fault("no loss is a number", inputs.no_loss_is_a_number, "exit code 1 after five of them"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--times", type=count, help="each fault so often (default: 3; SIGKILL 50)")
    parser.add_argument("--only", type=listed(str), default=[], metavar="WORDS", help="faults with such a word")


def run(options: Options) -> int:
    """1 where a fault did not end as it should."""
    record = options.record("faults")
    if options.own.only and record.file.is_file():
        earlier = read(record.file)
        record.rows = earlier["rows"]
        record.facts["earlier"] = {key: earlier["facts"].get(key) for key in ("commit", "command", "date", "earlier")}
    with tempfile.TemporaryDirectory(prefix="mae_fast-faults-", ignore_cleanup_errors=True) as folder:
        scene = Scene(Path(folder))
        try:
            if wanted(options, "SIGKILL"):
                record.put([kills(scene, options.own.times or (2 if options.quick else 50))])
            for fault in FAULTS:
                if wanted(options, fault.name) and time.monotonic() < options.until:
                    record.put([row(fault, scene, options.own.times or (1 if options.quick else 3))])
        finally:
            scene.clean()
    print(table.screen(record.rows, COLUMNS))
    return 0 if all(row["held"] == row["times"] for row in record.rows if row["times"]) else 1


COLUMNS = {
    "fault": lambda row: row["side"],
    "times": lambda row: str(row["times"]),
    "held": lambda row: str(row["held"]),
    "identical": lambda row: "" if row["identical"] is None else str(row["identical"]),
    "note": lambda row: row.get("note", ""),
}


def wanted(options: Options, name: str) -> bool:
    return not options.own.only or any(word in name for word in options.own.only)


def kills(scene: Scene, times: int) -> dict:
    """Chains of kills and resumes, each ended by an undisturbed end."""
    left, identical, chains = times, 0, 0
    while left:
        outcome = signals.killed(scene, left)
        done = int(outcome.said.split()[1])
        left, chains, identical = left - done, chains + 1, identical + done * bool(outcome.identical)
    return {"part": "faults", "side": "SIGKILL", "times": times, "held": identical, "identical": identical,
            "outcome": f"resumed by --auto_resume; {chains} runs to their end", "said": ""}  # fmt: skip


def row(fault: Fault, scene: Scene, times: int) -> dict:
    held, note, outcomes = 0, "", []
    try:
        for _ in range(times):
            try:
                outcomes.append(fault.inject(scene))
                held += outcomes[-1].identical is not False
            except AssertionError as error:
                traceback.print_exc()
                note = reason(error)
    except disk.NotHere as error:
        times, note = 0, str(error)
    about = [outcome for outcome in outcomes if outcome.identical is not None]
    seconds = [outcome.seconds for outcome in outcomes if outcome.seconds is not None]
    return {
        "part": "faults", "side": fault.name, "times": times, "held": held,
        "identical": sum(outcome.identical for outcome in about) if about else None, "outcome": fault.outcome,
        "median_s": round(statistics.median(seconds), 1) if seconds else None,
        "said": outcomes[-1].said.replace(str(scene.folder), "...") if outcomes else "", "note": note,
    }  # fmt: skip
