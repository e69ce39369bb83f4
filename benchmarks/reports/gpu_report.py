"""Everything that a machine with a GPU should be asked in the ten minutes that someone has it.

    mae-fast bench gpu-report --minutes 9 [--official DIR] [--continue DIR] [--device cpu --quick]

Each step (benchmarks.reports.gpu_steps) runs in a process of its own with a time limit of its own; what a step does not
use goes to those after it. Steps write their results as they go, so one that fails or runs out of time is recorded and
passed over and what it had stays. The log of each is beside its results. report.json says how each ended, and names
what did not fit; --continue goes on from there, and does not repeat what is done. Fewer than five minutes are for
limits, parity and Base alone, until those are done.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.harness import table
from benchmarks.harness.provenance import ROOT, provenance
from benchmarks.harness.record import RESULTS, Record, hardware, read
from benchmarks.reports import plots
from benchmarks.reports.gpu_steps import Step, steps

LAUNCH = [sys.executable, "-m", "mae_fast"]
GRACE = 0.8  # of its time, after which a step is asked to begin nothing new
FEW = 5  # minutes, fewer than which are for the first things alone
NOT_BEGUN = "not begun: no time left"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="for everything")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    add("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")
    add("--quick", action="store_true", help="toy sizes: shows that all of it runs, measures nothing")
    add("--continue", dest="folder", type=Path, metavar="DIR", help="go on with the report whose results are here")
    add("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results/<hardware>)")


def run(args: argparse.Namespace) -> int:
    """Run all steps; 1 where any did not end well."""
    if args.minutes <= 0:
        raise ValueError(f"--minutes: expected more than 0, got {args.minutes}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    out = args.folder or args.out or RESULTS / (hardware(args.device) + ("-quick" if args.quick else ""))
    facts, earlier = provenance(args.device, "benchmarks", args.argv), []
    if args.folder:
        before = read(out / "report.json")
        facts["earlier"], earlier = [before["facts"]], before["rows"]
        for key in ("device", "cpu"):
            was, now = before["facts"].get(key), facts.get(key)
            if was != now:
                raise ValueError(f"--continue: the report in {out} is of {key} {was}, and here it is {now}")
    todo = steps(args.device, args.quick, args.official, out.resolve())
    rows = run_steps(todo, args.minutes * 60, Record(out / "report.json", facts), earlier)
    print(table.screen(rows, COLUMNS))
    for file in plots.draw_all(out):
        print(f"Wrote {file}")
    return 0 if all(row["outcome"] == "done" for row in rows) else 1


COLUMNS = {
    "step": lambda row: row["step"],
    "took": lambda row: f"{row['took_s']:.0f} of {row['limit_s']:.0f} s",
    "outcome": lambda row: row["outcome"],
}


def run_steps(todo: list[Step], seconds: float, record: Record, earlier: list[dict] = ()) -> list[dict]:
    """A row each: how long it took, how long it might have, how it ended. earlier: rows; what is done stays."""
    end = time.monotonic() + seconds
    rows = {step.name: {"step": step.name, "outcome": NOT_BEGUN} for step in todo}
    rows |= {row["step"]: row for row in earlier if row["step"] in rows}
    todo = [step for step in todo if rows[step.name]["outcome"] != "done"]
    if seconds < 60 * FEW:
        todo = [step for step in todo if step.first] or todo
    _write(record, rows)
    for i, step in enumerate(bar := tqdm(todo, unit=" steps")):
        bar.set_description(step.name)
        left = max(0.0, end - time.monotonic())
        fair = left * min(1.0, 2 * step.share / sum(other.share for other in todo[i:]))
        kept = sum(other.least for other in todo[i + 1 :] if other.first)
        limit = min(left, max(step.least, min(fair, left - kept)))
        if limit < step.least:
            continue
        began = time.monotonic()
        outcome = _run(step, limit, record.file.parent)
        rows[step.name] |= {"outcome": outcome, "took_s": time.monotonic() - began, "limit_s": limit}
        _write(record, rows)
    return record.rows


def _write(record: Record, rows: dict[str, dict]) -> None:
    record.rows = []
    record.add(list(rows.values()))


def _run(step: Step, limit: float, out: Path) -> str:
    """-> how it ended. It and all that it started are killed at its limit."""
    out.mkdir(parents=True, exist_ok=True)
    command = [*LAUNCH, *step.command]
    command += ["--seconds", f"{GRACE * limit:.0f}"] if step.paced else []
    log = out / f"{step.name.replace(' ', '_')}.log"
    with open(log, "w") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"stopped after {limit:.0f} s"
        finally:
            _kill_group(process)
    if code == 0:
        without = left_out(out / step.results) if step.results else []
        return f"done but for what had no time: {', '.join(without)}" if without else "done"
    last = next(reversed(log.read_text().strip().splitlines()), "")
    return f"exit code {code}: {last[:200]}"


def left_out(file: Path) -> list[str]:
    """What a step's results name as not measured for want of time."""
    rows = read(file)["rows"] if file.is_file() else []
    return [", ".join(str(row[key]) for key in ("op", "shape", "side") if key in row)
            for row in rows if "no time left" in f"{row.get('note')} {row.get('notes')}"]  # fmt: skip


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, also compile workers that outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
