"""Block sizes of our Triton kernels on this GPU: those that ship, and what is faster.

    mae-fast bench blocks [--presets base] [--dtypes bf16] [--batch 256] [--seconds 50]

The tables FORWARD and BACKWARD of kernels/*.py, at the shapes of a preset's training step. From the options that ship,
one at a time is halved and doubled and the fastest is kept, so long as results stay those of the shipped ones; nothing
is written. Calls are replayed from CUDA graphs, in turn, so that the host does not count.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from statistics import median

import torch

from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import reason
from benchmarks.harness.timing import Clock, take_turns
from benchmarks.parts.attention import captured
from benchmarks.parts.limits import copy_bandwidth
from mae_fast import ops
from mae_fast.parity.cases import Case, least_bytes, make, preset_cases

MODULES = {"attention": ["attention_held", "attention_blocked"]}  # of other ops: the file of that name
GAIN = 0.98  # of the time so far, below which options are taken
# Options that can gain only together. The backward of 197 tokens of 32 on an H100 then has 12 or 16 warps a
# multiprocessor, where those that ship give 8, for 16 to 56 spilled bytes a thread (benchmarks.aot).
TOGETHER = {
    "attention_held.BACKWARD[True]": [
        {"ROWS": 32, "num_warps": 8, "maxnreg": 128},
        {"ROWS": 32, "maxnreg": 168},
        {"TILE": 32, "ROWS": 32, "maxnreg": 168},
    ]
}


class Watched(dict):
    """A table that notes which of its entries are read."""

    def __init__(self, entries: dict):
        super().__init__(entries)
        self.read = set()

    def __getitem__(self, key):
        self.read.add(key)
        return super().__getitem__(key)


@dataclass
class Entry:
    """Options of a kernel: a whole table, or an entry of one (key)."""

    module: str
    table: str
    key: object = None

    @contextmanager
    def set(self, options: dict):
        """Launches use these options inside."""
        module = import_module(f"mae_fast_kernels.{self.module}")
        shipped = getattr(module, self.table)
        setattr(module, self.table, options if self.key is None else shipped | {self.key: options})
        try:
            yield
        finally:
            setattr(module, self.table, shipped)

    @property
    def shipped(self) -> dict:
        entries = getattr(import_module(f"mae_fast_kernels.{self.module}"), self.table)
        return entries if self.key is None else entries[self.key]

    def __str__(self) -> str:
        return f"{self.module}.{self.table}" + ("" if self.key is None else f"[{self.key}]")


def entries_read(op: str, direction: str, call: Callable) -> list[Entry]:
    """The options that a call is launched with."""
    found, name = [], direction.upper()
    for module_name in MODULES.get(op, [op]):
        module = import_module(f"mae_fast_kernels.{module_name}")
        if not hasattr(module, name):
            continue
        shipped = getattr(module, name)
        keyed = all(isinstance(options, dict) for options in shipped.values())
        watched = Watched(shipped)
        setattr(module, name, watched)
        try:
            call()
        finally:
            setattr(module, name, shipped)
        found += [Entry(module_name, name, key) for key in watched.read] if keyed else [Entry(module_name, name)]
    return found


def neighbours(options: dict, name: str) -> Iterator[dict]:
    """The options with one of them halved and doubled; stages of a pipeline one fewer and one more."""
    value = options[name]
    steps = (value - 1, value + 1) if "stages" in name.lower() else (value // 2, value * 2)
    for other in steps:
        if other >= 1 and not (name == "num_warps" and other > 16):
            yield options | {name: other}


def prepare(case: Case, direction: str, dtype: torch.dtype, device: str) -> Callable[[], tuple]:
    """-> a call of the op, or of its backward, that may be repeated."""
    inputs, function = make(case, dtype, device), getattr(ops, case.op)
    leaves = {i: inputs.args[i].detach().requires_grad_() for i in inputs.grads}
    args = [leaves.get(i, x) for i, x in enumerate(inputs.args)]
    if direction == "forward":
        return lambda: _results(function(*args))
    out = _results(function(*args))
    upstream = [torch.randn_like(x) for x in out]
    return partial(torch.autograd.grad, out, list(leaves.values()), upstream, retain_graph=True)


def _results(out) -> tuple:
    return out if isinstance(out, tuple) else (out,)


def on_gpu(calls: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Seconds of each call, medians of rounds in turn."""
    replays = {name: captured(call) for name, call in calls.items()}
    sides = {name: lambda replay=replay: replay for name, replay in replays.items()}
    seconds = take_turns(sides, tuple, rounds, Clock("cuda"), label=None).seconds
    return {name: median(taken) for name, taken in seconds.items()}


def sweep(entry: Entry, call: Callable, time_all: Callable, until: float) -> tuple[dict, float, float, list[str]]:
    """-> the best options found, seconds with those that ship and with them, notes on options that cannot run.

    time_all: {name: call} -> {name: seconds}.
    """
    expected, best = call(), entry.shipped
    shipped_s = best_s = time_all({"shipped": call})["shipped"]
    notes = []

    def launch(options: dict) -> tuple:
        with entry.set(options):
            return call()

    together = [entry.shipped | options for options in TOGETHER.get(str(entry), [])]
    for name in [*(["together"] if together else []), *(n for n, value in best.items() if isinstance(value, int))]:
        if time.monotonic() > until:
            notes.append(f"{name} not tried: no time left")
            continue
        tried = {}
        for options in together if name == "together" else neighbours(best, name):
            value = str(options.get(name, options))
            try:
                near = all(map(partial(torch.allclose, rtol=0.05, atol=0.05), launch(options), expected))
            except Exception as error:  # Triton's own, of a kernel too large for the GPU
                notes.append(f"{name} {value}: {reason(error)}")
                continue
            if near:
                tried[value] = options
            else:
                notes.append(f"{name} {value}: other results")
        calls = {value: partial(launch, options) for value, options in tried.items()}
        seconds = time_all(calls | {"best": partial(launch, best)})
        fastest = min(seconds, key=seconds.get)
        if fastest != "best" and seconds[fastest] < GAIN * seconds["best"]:
            best, best_s = tried[fastest], seconds[fastest]
    return best, shipped_s, best_s, notes


COLUMNS = {
    "options": lambda row: row["entry"],
    "at": lambda row: row["at"],
    "ms": lambda row: f"{row['median_s'] * 1e3:.4f}",
    "of limit": table.share,
    "shipped": lambda row: str(row["shipped"]),
    "faster": lambda row: row["faster"],
}


def run(options: Options) -> int:
    if options.device != "cuda":
        print("blocks: Triton kernels run on a GPU, and there is none here: nothing to sweep")
        return 0
    copy = copy_bandwidth(Clock("cuda"))
    for name, preset in options.presets.items():
        record = options.record(f"blocks_{name}")
        cases = preset_cases(preset, options.batch_of(name), options.img_size)
        for dtype in options.dtypes.values():
            for what, case in cases.items():
                record.add(list(rows_of(what, case, dtype, copy, options)))
        print(table.screen(record.rows, COLUMNS))
    return 0


def rows_of(what: str, case: Case, dtype: torch.dtype, copy: float, options: Options) -> Iterator[dict]:
    """A row for each entry that a case's forward and backward read."""
    time_all = partial(on_gpu, rounds=options.rounds_or(7))
    for direction in ["forward", "backward"] if make(case, dtype, "cuda").grads else ["forward"]:
        if case.op == "gather_patches" and direction == "backward":
            continue  # in a step nobody asks for the gradient of the images
        call = prepare(case, direction, dtype, "cuda")
        for entry in entries_read(case.op, direction, call):
            best, shipped_s, best_s, notes = sweep(entry, call, time_all, options.until)
            changed = {key: value for key, value in best.items() if value != entry.shipped.get(key)}
            yield {
                "entry": str(entry), "at": f"{what}, {direction}", "shipped": entry.shipped, "best": best,
                "median_s": best_s, "shipped_s": shipped_s,
                "of_limit": least_bytes(case, direction, dtype, "cuda") / copy / best_s,
                "faster": f"{shipped_s / best_s:.2f}x with {changed}" if changed else "", "notes": notes,
            }  # fmt: skip
