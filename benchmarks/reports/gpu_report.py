"""Everything that a machine with a GPU should be asked in the ten minutes that someone has it.

    mae-fast bench gpu-report --minutes 9 [--official DIR] [--device cpu --quick]

Each step runs in a process of its own with a time limit of its own; what a step does not use goes to those after it.
Steps write their results as they go, so one that fails or runs out of time is recorded and passed over and what it had
stays. The log of each is beside its results. report.json says how each ended.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.harness import table
from benchmarks.harness.provenance import ROOT, provenance
from benchmarks.harness.record import RESULTS, Record, hardware
from benchmarks.reports import plots

LAUNCH = [sys.executable, "-m", "mae_fast"]
GRACE = 0.8  # of its time, after which a step is asked to begin nothing new


@dataclass(frozen=True)
class Step:
    name: str
    share: float  # of the whole time, at most, beside those of the steps still to come
    command: list[str]  # after `mae-fast`
    paced: bool = True  # takes --seconds


def steps(device: str, quick: bool, official: Path | None, out: Path) -> list[Step]:
    """The steps of the report, what matters most first."""
    first, *others = ["tiny"] if quick else ["base", "large", "small"]
    peers = ["--official", str(official.resolve())] if official else []
    common = ["--device", device, "--out", str(out), *(["--quick"] if quick else [])]
    fewer = {  # compilations, which take longest of a toy run
        "train": ["--sides", "as shipped,SDPA,ours"],
        "memory": ["--sides", "as shipped,ours bf16"],
        "curve": ["--steps", "5"],
        "scaling": ["--batch", "2,4"],
    }
    fewer = fewer if quick else {"memory": ["--sides", "as shipped,compiled"]}

    def bench(part: str, share: float, preset: str = "", *flags: str) -> Step:
        flags = [*common, *flags, *(["--presets", preset] if preset else []), *fewer.get(part, [])]
        return Step(f"{part} {preset}".strip(), share, ["bench", part, *flags])

    def other(name: str, share: float, *command: str) -> Step:
        flags = ["--device", device, "--json", str(out / f"{name}.json"), *fewer.get(name, [])]
        return Step(name, share, [*command, *flags], paced=False)

    return [
        other("parity", 2, "parity", "--preset", first),
        bench("blocks", 1, first),
        bench("attention", 2),
        bench("limits", 0.5, first),
        bench("train", 3, first, *peers),
        bench("ops", 1.5, first),
        *(bench("train", 3, preset, *peers) for preset in others),
        bench("waterfall", 1.5, first),
        bench("memory", 1.5, first, *peers),
        bench("data", 0.7),
        other("curve", 0.7, "parity", "curve", "--picture", str(out / "curve.svg")),
        bench("scaling", 0.7, first),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--minutes", type=float, default=9, help="for everything")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    add("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")
    add("--quick", action="store_true", help="toy sizes: shows that all of it runs, measures nothing")
    add("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results/<hardware>)")


def run(args: argparse.Namespace) -> int:
    """Run all steps; 1 where any did not end well."""
    if args.minutes <= 0:
        raise ValueError(f"--minutes: expected more than 0, got {args.minutes}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    out = args.out or RESULTS / (hardware(args.device) + ("-quick" if args.quick else ""))
    record = Record(out / "report.json", provenance(args.device, "benchmarks", args.argv))
    rows = run_steps(steps(args.device, args.quick, args.official, out.resolve()), args.minutes * 60, record)
    print(table.screen(rows, COLUMNS))
    for file in plots.draw_all(out):
        print(f"Wrote {file}")
    return 0 if all(row["outcome"] == "done" for row in rows) else 1


COLUMNS = {
    "step": lambda row: row["step"],
    "took": lambda row: f"{row['took_s']:.0f} of {row['limit_s']:.0f} s",
    "outcome": lambda row: row["outcome"],
}


def run_steps(todo: list[Step], seconds: float, record: Record) -> list[dict]:
    """A row each: how long it took, how long it might have, how it ended."""
    end = time.monotonic() + seconds
    for i, step in enumerate(bar := tqdm(todo, unit=" steps")):
        bar.set_description(step.name)
        left = max(0.0, end - time.monotonic())
        limit = left * min(1.0, 2 * step.share / sum(other.share for other in todo[i:]))
        began = time.monotonic()
        outcome = _run(step, limit, record.file.parent) if limit >= 1 else "not begun: no time left"
        record.add([{"step": step.name, "outcome": outcome, "took_s": time.monotonic() - began, "limit_s": limit}])
    return record.rows


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
        return "done"
    last = next(reversed(log.read_text().strip().splitlines()), "")
    return f"exit code {code}: {last[:200]}"


def _kill_group(process: subprocess.Popen) -> None:
    """Kill a process and all that it started, also compile workers that outlive it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
