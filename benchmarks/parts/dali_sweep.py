"""A sweep of what DALI's pipelines are built with: part of `mae-fast bench data`."""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace

from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import Record, reason
from benchmarks.harness.steady import Steady
from benchmarks.harness.timing import summary
from mae_fast.data.loader import available_cpus

MIB = 2**20


def candidates(device: str, cpus: int) -> list[tuple[str, list[dict]]]:
    """(what is varied, its values as changes of Settings and of num_workers), in the order they are settled."""
    threads = sorted({max(1, cpus // 2), min(10, cpus), cpus})
    both = [
        ("decode", [{"decode": how} for how in ("slice", "whole", "random_crop")]),
        ("threads", [{"num_workers": number} for number in threads]),
        ("ahead", [{"ahead": number} for number in (2, 3, 4)]),
    ]
    if device != "cuda":
        return both
    large = {"device_memory_padding": 256 * MIB, "host_memory_padding": 128 * MIB}
    return [
        ("hw_decoder_load", [{"hw_decoder_load": share} for share in (0.65, 0.0, 0.5, 0.75, 0.9, 1.0)]),
        *both,
        ("padding", [{}, large, large | {"width_hint": 1024, "height_hint": 1024}]),
    ]


COLUMNS = {
    "settings": lambda row: row["side"],
    "images/s": lambda row: f"{row['images_per_s']:.0f}",
    "ms a batch": table.ms,
    "cores": lambda row: f"{row['cores']:.1f}",
}


def sweep(
    options: Options, record: Record, build: Callable[..., Iterator[None]], warm_up: int, batch: int
) -> int:  # fmt: skip
    """Settle one setting after another, and print all that was tried and the best. build(dali=, num_workers=)."""
    from mae_fast.data.dali_pipeline import SHIPPED

    lists = candidates(options.device, available_cpus())
    runs, rounds = sum(len(values) for _, values in lists), options.rounds_or(3)
    best, fastest = {}, None
    for _, values in lists:
        tried = []
        for change in values:
            settings = best | change
            name = ", ".join(f"{key} {value}" for key, value in settings.items()) or "as shipped"
            known = next((row for row in record.rows if row["side"] == name and "seconds" in row), None)
            if known is None:
                left = (options.until - time.monotonic()) / (rounds + 1) / max(1, runs - len(record.rows))
                length = 0.05 if options.quick else max(0.2, min(2.0, left))
                record.add([known := measure(settings, name, SHIPPED, build, warm_up, rounds, length, batch)])
            if "seconds" in known:
                tried.append((known["images_per_s"], settings, known))
        # DALI's own windows follow no plan: never what a run would take
        usable = [entry for entry in tried if entry[1].get("decode") != "random_crop"]
        if usable:
            fastest = max(usable, key=lambda entry: entry[0])
            best = fastest[1]
    print(table.screen(record.rows, COLUMNS))
    if fastest:
        print(
            f"best: {fastest[2]['side']}, {fastest[0]:.0f} images/s; random_crop, whose windows follow no plan, aside"
        )
    return 0


def measure(
    settings: dict, name: str, shipped, build: Callable, warm_up: int, rounds: int, length: float, batch: int
) -> dict:
    row = {"part": "data", "batch": batch, "side": name}
    changes = {key: value for key, value in settings.items() if key != "num_workers"}
    try:
        with closing(build(dali=replace(shipped, **changes), num_workers=settings.get("num_workers"))) as batches:
            steady = Steady.of(batches, warm_up, rounds, length)
    except RuntimeError as error:  # a decoder that this GPU, or this DALI, refuses
        return row | {"note": f"not run: {reason(error)}"}
    row |= {"seconds": steady.seconds, "cores": steady.cores, **summary(steady.seconds)}
    return row | {"images_per_s": batch / row["median_s"]}
