"""What lies under results/<hardware>/, read for tables and pictures."""

from collections.abc import Iterator
from pathlib import Path

from benchmarks.counting.roofline import Gpu
from benchmarks.harness import record
from mae_fast.config import SIZES

ORDER = list(SIZES)
TURNS = ["base", "large", "small"]  # what matters most first, as gpu-report measures them

Side = tuple[str, str]  # name, dtype
Column = tuple[str, int]  # preset, batch


def results(folder: Path, part: str) -> list[dict]:
    """Rows of a part: of its file without a preset, then of all presets, in order of size, with their other batches."""
    files = [folder / f"{part}.json"]
    for preset in ORDER:
        files += [folder / f"{part}_{preset}.json", *sorted(folder.glob(f"{part}_{preset}_*.json"))]
    return [row for file in files if file.is_file() for row in record.read(file)["rows"]]


def first_batch(rows: list[dict]) -> Iterator[dict]:
    """The measured rows of each preset's first batch size."""
    batch = {}
    for row in rows:
        if row.get("seconds") and row["batch"] == batch.setdefault(row["preset"], row["batch"]):
            yield row


def is_ours(side: str) -> bool:
    return side.startswith("ours")


def in_order(key: Column) -> tuple:
    """To sort presets and batches by: the largest batch of each preset first."""
    preset, batch = key
    return TURNS.index(preset) if preset in TURNS else len(TURNS), -batch


def turns(folder: Path) -> dict[Column, dict[Side, dict]]:
    """Steps that were timed in turn, each side a process: by preset and batch, those where ours has a peer beside it.

    A row need not have its rounds: some are known from a table alone (its `source`).
    """
    columns: dict[Column, dict[Side, dict]] = {}
    for row in results(folder, "turns"):
        if row.get("images_per_s") and "alone" not in row["side"]:
            columns.setdefault((row["preset"], row["batch"]), {})[row["side"], row["dtype"]] = row
    return {key: columns[key] for key in sorted(columns, key=in_order)
            if len({is_ours(side) for side, _ in columns[key]}) == 2}  # fmt: skip


def ahead(sides: dict[Side, dict]) -> float:
    """Our best rate over the best of the others."""
    best = {True: 0.0, False: 0.0}
    for (side, _), row in sides.items():
        best[is_ours(side)] = max(best[is_ours(side)], row["images_per_s"])
    return best[True] / best[False]


def limits(folder: Path) -> Gpu | None:
    """The fastest copy and the fastest matrix product that were measured; None where either was not."""
    rates = {"GB/s": 0.0, "TFLOP/s": 0.0}
    for row in results(folder, "limits"):
        if row.get("unit") in rates:
            rates[row["unit"]] = max(rates[row["unit"]], row["rate"])
    bandwidth, peak = (rate * scale for rate, scale in zip(rates.values(), (1e9, 1e12), strict=True))
    return Gpu(peak, bandwidth, 0) if bandwidth and peak else None


def facts_of(folder: Path, part: str = "") -> list[dict]:
    """Where each file came from that names its hardware, of a part or of all."""
    found = []
    for file in sorted(folder.glob(f"{part}*.json")):
        try:
            found.append(record.read(file)["facts"])
        except ValueError:  # JSON of another kind
            continue
    return [facts for facts in found if "cpu" in facts]


def hardware_of(folder: Path) -> str:
    """The hardware in words, and of a GPU the commit too, from the first file that names it."""
    for facts in facts_of(folder):
        if "device" in facts:
            return f"{facts['device']}, torch {facts['torch']}, commit {facts['commit'][:7]}"
        return f"{facts['cpu']}, {facts['threads']} CPU threads, torch {facts['torch']}"
    return folder.name
