"""Training steps, each side a process of its own: all compile at once, then take turns.

    mae-fast bench turns [--presets base] [--dtypes bf16] [--batch 256] [--rounds 5] [--steps 10] [--official DIR]

A step is that of `mae-fast bench train`. The sides (benchmarks.peers.sides.turns_specs): the official model as shipped
and, with scaled_dot_product_attention, compiled (PyTorch's default mode and reduce-overhead); Hugging Face's, compiled
alike; ours as `mae-fast pretrain` runs it by default, and with each of its choices undone; and the matrix products of
our step alone, which are the limit. Each process holds its side to the parity rule before it says that it is ready
(benchmarks.peers.worker). In a round each runs --steps steps; a round counts as the median of its steps.

A side that dies or is late is named with the last line of its log. On CUDA, ours with a choice undone take turns after
the peers, beside ours once more, for memory's sake; a side that finds none all the same is started again at the end.

Beside turns_PRESET: memory_PRESET, the peak of each side since it was held to the rule, against what training must
hold (16 bytes a parameter), and kernels_PRESET, the kernels of ours and of the fastest peer by what they are for,
against the limits of benchmarks.counting.kernels at the rates in limits.json.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from benchmarks.counting import flops, kernels
from benchmarks.harness import table
from benchmarks.harness.options import Options, count
from benchmarks.harness.record import Record
from benchmarks.harness.timing import summary, times_as_long
from benchmarks.peers.sides import ALONE, Spec, turns_specs
from benchmarks.peers.wave import Wave, take_turns
from mae_fast.config import SIZES


def measure(name: str, batch: int, options: Options, after_round=lambda rows: None) -> tuple[list[dict], list[dict]]:
    """-> (a row a side, rows of kernels). after_round: called with the rows so far."""
    dtype = next(iter(options.dtypes))
    wanted = [side for side in turns_specs(dtype, options.device) if options.wants(str(side)) or side.name == ALONE]
    ours = [side for side in wanted if side.undone == ""]
    own = options.own.official
    work = {"preset": name, "batch": batch, "img_size": options.img_size, "device": options.device,
            "official": str(own.resolve()) if own else None}  # fmt: skip
    waves: list[Wave] = []

    def rows(wave: Wave) -> list[dict]:
        return rows_of([*waves, wave], wanted, name, batch, options.img_size)

    left = wanted
    while left:
        sides = [*(side for side in ours if side not in left), *left]
        new = take_turns(sides, work, options, lambda wave: after_round(rows(wave)))
        waves += new
        again = [side for side in left if any(side in wave.crowded for wave in new)]
        # None found memory with fewer beside it, or there is no time: the note says why it is not there.
        left = again if len(again) < len(left) and time.monotonic() < options.until else []
    profiled = next((wave.kernels for wave in waves if wave.kernels), {})
    found = [row for side, answer in profiled.items() for row in kernel_rows(answer, side, name, batch, options)]
    return rows_of(waves, wanted, name, batch, options.img_size), found


def rows_of(waves: list[Wave], wanted: list[Spec], name: str, batch: int, img_size: int) -> list[dict]:
    """A row a side, of the first wave in which it had turns, or else of the last that says why it had none."""
    naive = flops.step_flops(SIZES[name], batch, img_size=img_size)
    own = sum(product.flops for product in flops.products(SIZES[name], batch, img_size=img_size))
    rows = []
    for side in wanted:
        measured = next((wave for wave in waves if wave.rounds.get(side)), None)
        wave = measured or next((wave for wave in reversed(waves) if side in wave.notes), None)
        if wave is None:
            continue
        row = {"part": "turns", "preset": name, "batch": batch, "dtype": side.dtype, "side": side.name}
        row |= {"note": "" if measured else wave.notes[side]} | wave.ready.get(side, {})
        if measured:
            seconds = wave.seconds(side)
            row |= {"seconds": seconds, **summary(seconds)}
            row["wall_s"] = median(answer["wall_s"] for answer in wave.rounds[side])
            amount = own if side.name == ALONE else naive
            row |= {"images_per_s": batch / row["median_s"], "tflops": amount / row["median_s"] / 1e12}
            ours = next((other for other in wave.rounds if other.undone == ""), None)
            row |= times_as_long(seconds, wave.seconds(ours)) if ours else {}
        rows.append(row)
    limit = next((row["median_s"] for row in rows if row["side"] == ALONE and "median_s" in row), None)
    for row in rows:
        if limit and "median_s" in row:
            row |= {"limit_s": limit} | ({"of_limit": limit / row["median_s"]} if row["side"] != ALONE else {})
    return rows


def kernel_rows(answer: dict, side: Spec, name: str, batch: int, options: Options) -> list[dict]:
    """A row for each purpose of a side's kernels."""
    identity = {"part": "kernels", "preset": name, "batch": batch, "dtype": side.dtype, "side": side.name}
    if "error" in answer:
        return [identity | {"note": f"not run: {answer['error']}"}]
    gpu = kernels.rates(options.out / "limits.json", side.dtype)
    stream = 2 if options.device == "cuda" else 4
    least = kernels.least_seconds(SIZES[name], batch, gpu, img_size=options.img_size, stream=stream) if gpu else {}
    rows = []
    for what, row in kernels.by_purpose(answer["kernels"]).items():
        if limit := least.get(what):
            row |= {"limit_s": limit} | ({"of_limit": limit / row["kernel_s"]} if row["kernel_s"] else {})
        rows.append(identity | {"op": what, "note": ""} | row)
    return rows


def memory_rows(rows: list[dict]) -> list[dict]:
    """The peak of each side, as `mae-fast bench memory` writes it."""
    found = []
    for row in rows:
        if row["side"] != ALONE:
            same = {key: row[key] for key in ("preset", "batch", "dtype", "side", "note")}
            if "bytes" in row:
                limit = 16 * row["parameters"]
                same |= {"bytes": row["bytes"], "limit_bytes": limit, "of_limit": limit / row["bytes"]}
            found.append({"part": "memory"} | same)
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")
    parser.add_argument("--steps", type=count, help="steps of a turn (default: 8 on CUDA, 1 on a CPU)")


COLUMNS = table.STEP | {
    "GiB": lambda row: f"{row['bytes'] / 2**30:.2f}",
    "loss, first": lambda row: f"{row['losses'][0]:.4f}",
    "last": lambda row: f"{row['losses'][-1]:.4f}",
    "runs": lambda row: row["runs"],
}
KERNEL_COLUMNS = {
    "side": lambda row: row["side"],
    "kernels": lambda row: row["op"],
    "ms": lambda row: f"{row['kernel_s'] * 1e3:.3g}",
    "launches": lambda row: f"{row['launches']:.0f}",
    "limit ms": lambda row: f"{row['limit_s'] * 1e3:.3g}",
}


def run(options: Options) -> int:
    for name in options.presets:
        for batch in options.batches_of(name):
            # Several batches of a preset, asked for, are several files: each report's step has its own.
            file = f"{name}_{batch}" if options.batches else name
            record, memory = options.record(f"turns_{file}"), options.record(f"memory_{file}")

            def keep(rows: list[dict], record: Record = record, memory: Record = memory) -> None:
                record.put(rows)
                memory.put(memory_rows(rows))

            rows, found = measure(name, batch, options, keep)
            keep(rows)
            options.record(f"kernels_{file}").put(found)
            print(f"\n{name}, batch {batch}\n{table.screen(rows, COLUMNS)}")
            print(table.screen(found, KERNEL_COLUMNS), flush=True)
    return 0
