"""Predicted pretraining on many GPUs, from a step that was measured on one: tables, and a command.

    mae-fast bench --model-only --gpus 8,64 [--presets base] [--batch 256] [--price 3.0] [--results DIR]

It needs no GPU. The measured step, kernels and loader are those of a folder under benchmarks/results; what was not
measured is estimated from what was, and says so. docs/scaling.md has the tables and what follows from them.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from benchmarks.counting.cluster import STRATEGIES, Cluster, assumptions
from benchmarks.counting.scaling import CHANGES, EFFECTIVE_BATCH, MOST, PRICE, Prediction, predict
from benchmarks.harness import table
from benchmarks.harness.options import count, listed, one_of
from benchmarks.reports.costs import MEASURED, costs, loading
from mae_fast.config import SIZES
from mae_fast.files.atomic import write_atomic

GPUS, PRESETS = [1, 8, 64, 512], ["small", "base", "large", "huge"]


def predictions(
    presets: list[str], gpus: list[int], folder: Path = MEASURED, batch: int = MOST, **how
) -> Iterator[Prediction]:
    for preset in presets:
        for number in gpus:
            cost = costs(folder)[preset]
            yield predict(preset, number, cost, loading(folder), batch=batch, **how)


def each(one: Prediction) -> str:
    return str(one.batch) + (f" x {one.accumulate}" if one.accumulate > 1 else "")


def rate(one: Prediction) -> str:
    return f"{one.images_per_s:,.0f}"


def overview(folder: Path) -> str:
    """Markdown: every preset on 1 to 512 GPUs, as a run is today and with a CUDA graph on every rank."""
    header = ["preset, GPUs", "images a GPU", "images/s", "limit", "hours", "dollars",
              "with a graph on each: images/s", "limit then", "of ideal", "hours then", "dollars then"]  # fmt: skip
    lines = []
    for preset in PRESETS:
        now = predictions([preset], GPUS, folder)
        for one, then in zip(now, predictions([preset], GPUS, folder, graph=True), strict=True):
            lines.append([
                f"{preset.capitalize()}, {one.gpus}", each(one), rate(one), one.limit, *bill(one),
                rate(then), then.limit, f"{then.efficiency:.0%}", *bill(then),
            ])  # fmt: skip
    return table.markdown(header, lines)


def bill(one: Prediction, price: float = PRICE) -> list[str]:
    return [f"{one.hours():,.1f}", f"{one.dollars(price):,.0f}"]


def strategies(folder: Path) -> str:
    """Markdown: what each strategy exchanges on many GPUs, and what of it is not hidden."""
    lines = []
    for preset in PRESETS:
        for gpus in GPUS[2:]:
            for one in (next(predictions([preset], [gpus], folder, strategy=name, graph=True)) for name in STRATEGIES):
                lines.append([
                    f"{preset.capitalize()}, {gpus}, {one.strategy}", f"{one.sent / 1e6:,.0f}",
                    f"{one.exchanges * one.exchange.seconds * 1e3:.1f}", f"{one.network * 1e3:.1f}",
                    f"{one.compute * 1e3:.1f}", f"{one.memory / 1e9:.0f}", rate(one),
                ])  # fmt: skip
    header = ["preset, GPUs, strategy", "MB sent a GPU", "exchange, ms", "not hidden, ms", "compute, ms",
              "GB a GPU", "images/s"]  # fmt: skip
    return table.markdown(header, lines)


def assumed(folder: Path) -> str:
    """Markdown: every assumption, and the costs of a step that all follows from."""
    lines = [[name, f"{value:.4g} {unit}", source] for name, value, unit, source in assumptions(Cluster())]
    lines.append(["price", f"{PRICE:.2f} dollars a GPU and hour", "a guess: give `--price`"])
    return table.markdown(["assumption", "value", "from"], lines)


def step_costs(folder: Path) -> str:
    lines = [
        [preset.capitalize(), f"{cost.per_image * 1e3:.3f}", f"{cost.per_batch * 1e3:.2f}",
         f"{cost.per_update * 1e3:.2f}", f"{cost.launch * 1e3:.0f}", cost.source]
        for preset, cost in ((preset, costs(folder)[preset]) for preset in PRESETS)
    ]  # fmt: skip
    return table.markdown(["ms", "an image", "a batch", "an update", "launching, no graph", "from"], lines)


def row(one: Prediction, price: float) -> dict:
    return {
        "preset": one.preset, "gpus": one.gpus, "strategy": one.strategy, "graph": one.graph, "batch": one.batch,
        "accumulate": one.accumulate, "images_per_s": one.images_per_s, "efficiency": one.efficiency,
        "step_s": one.step, "compute_s": one.compute, "exchange_s": one.exchanges * one.exchange.seconds,
        "not_hidden_s": one.network, "launches_s": one.launches, "data_s": one.data, "bytes_sent": one.sent,
        "memory_bytes": one.memory, "hours": one.hours(), "dollars": one.dollars(price), "limit": one.limit,
        "then": CHANGES[one.limit],
    }  # fmt: skip


COLUMNS = {
    "preset": lambda row: row["preset"],
    "GPUs": lambda row: str(row["gpus"]),
    "strategy": lambda row: row["strategy"],
    "graph": lambda row: "yes" if row["graph"] else "no",
    "images a GPU": lambda row: f"{row['batch']} x {row['accumulate']}",
    "images/s": lambda row: f"{row['images_per_s']:,.0f}",
    "of ideal": lambda row: f"{row['efficiency']:.0%}",
    "step ms": lambda row: f"{row['step_s'] * 1e3:.1f}",
    "MB sent": lambda row: f"{row['bytes_sent'] / 1e6:,.0f}",
    "not hidden ms": lambda row: f"{row['not_hidden_s'] * 1e3:.1f}",
    "GB a GPU": lambda row: f"{row['memory_bytes'] / 1e9:.0f}",
    "hours": lambda row: f"{row['hours']:,.1f}",
    "dollars": lambda row: f"{row['dollars']:,.0f}",
    "limit": lambda row: row["limit"],
}


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="mae-fast bench --model-only", description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--gpus", type=listed(count), required=True, metavar="N,...", help="H200s of the job")
    add("--presets", type=listed(one_of(SIZES)), default=PRESETS, metavar="NAMES", help=f"of {', '.join(SIZES)}")
    add("--batch", type=count, default=MOST, help="images a GPU at once, at most (default: %(default)s)")
    add("--effective", type=count, default=EFFECTIVE_BATCH, help="images an update on all GPUs (default: the paper's)")
    add("--price", type=float, default=PRICE, help="dollars a GPU and hour (default: %(default)s, a guess)")
    add("--results", type=Path, default=MEASURED, metavar="DIR", help="where the measured step comes from")
    add("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    rows = []
    for preset in options.presets:
        for gpus in options.gpus:
            for name in STRATEGIES if gpus > 1 else ["ddp"]:
                for graph in (False, True) if gpus > 1 else (None,):
                    how = {"strategy": name, "graph": graph, "effective": options.effective}
                    made = predictions([preset], [gpus], options.results, options.batch, **how)
                    rows += [row(one, options.price) for one in made]
    print(f"Predicted for H200s from what is measured in {options.results.name}; not measured. The assumptions are in "
          "docs/scaling.md.")  # fmt: skip
    print(table.screen(rows, COLUMNS))
    for limit in dict.fromkeys(row["limit"] for row in rows):
        print(f"Where the limit is {limit}: {CHANGES[limit]}.")
    if options.json:
        assumed = {name: value for name, value, *_ in assumptions(Cluster())}
        content = json.dumps({"assumptions": assumed, "rows": rows}, indent=1) + "\n"
        write_atomic(options.json, lambda file: file.write(content.encode()))
    return 0
