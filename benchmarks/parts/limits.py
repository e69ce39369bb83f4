"""The machine's limits, measured in the same run as what is held to them: a copy, matrix products, JPEG decoding.

    mae-fast bench limits [--presets base] [--dtypes bf16,fp32] [--batch 32]

Matrix products are those of a preset's own training step (benchmarks.counting.flops), on random data: on zeros a GPU
draws less power and clocks higher. The linear ones and those of attention apart, as their shapes reach very different
rates; on CUDA a large square one besides.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.counting import flops, products
from benchmarks.harness import table
from benchmarks.harness.options import Options
from benchmarks.harness.record import reason
from benchmarks.harness.sample import write_jpegs
from benchmarks.harness.timing import Clock, summary, take_turns
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources.image_file import decode_rgb

# What a GPU's matrix units reach where shapes ask nothing of them: the ceiling that an MFU is a share of.
SQUARE = {"cuda": {"8192 x 8192 x 8192": [flops.Product("square", 8192, 8192, 8192)]}, "cpu": {}}
COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}  # far more than any cache


def copy(device: str) -> tuple[Callable[[], object], int]:
    """-> (a copy, the bytes that it reads and writes)."""
    source = torch.randint(0, 255, (COPY_BYTES[device],), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return partial(target.copy_, source), 2 * source.numel()


def copy_bandwidth(clock: Clock) -> float:
    """Bytes a second."""
    call, size = copy(clock.device)
    return size / median(take_turns({"copy": lambda: call}, tuple, 9, clock).seconds["copy"])


def decoder(files: list[Path], batch: int, device: str) -> tuple[Callable[[], None], str]:
    """-> (a function that decodes all files to RGB and does nothing else, what decodes them)."""
    threads = available_cpus()
    try:
        from nvidia.dali import fn, pipeline_def, types
    except ImportError:
        pool = ThreadPoolExecutor(threads)
        return lambda: [None for _ in pool.map(lambda file: decode_rgb(str(file)).load(), files)], "Pillow"

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=0 if device == "cuda" else None)
    def decode():
        encoded, _ = fn.readers.file(files=[str(file) for file in files])
        return fn.decoders.image(encoded, device="mixed" if device == "cuda" else "cpu", output_type=types.RGB)

    pipeline = decode()
    pipeline.build()

    def run() -> None:
        for _ in range(len(files) // batch):
            pipeline.run()
        if device == "cuda":
            torch.cuda.synchronize()

    return run, "DALI"


COLUMNS = {
    "limit": lambda row: row["side"],
    "preset": lambda row: row["preset"],
    "dtype": lambda row: row["dtype"],
    "rate": lambda row: f"{row['rate']:.4g} {row['unit']}",
    "ms": table.ms,
}


def run(options: Options) -> int:
    clock, rows = Clock(options.device), []
    record = options.record("limits")

    def measure(names: dict, call: Callable, amount: float, unit: str, clock: Clock = clock) -> None:
        seconds = take_turns({names["side"]: lambda: call}, tuple, options.rounds_or(9), clock).seconds[names["side"]]
        rate = amount / median(seconds)
        rows.append({"part": "limits", **names, "rate": rate, "unit": unit, "seconds": seconds, **summary(seconds)})
        record.add(rows[-1:])

    call, size = copy(options.device)
    measure({"side": "copy"}, call, size / 1e9, "GB/s")
    del call
    for name, preset in options.presets.items():
        own = flops.products(preset, options.batch_of(name), img_size=options.img_size)
        for dtype_name, dtype in options.dtypes.items():
            for side, group in (products.groups(own) | SQUARE[options.device]).items():
                names = {"side": side, "preset": name, "dtype": dtype_name, "batch": options.batch_of(name)}
                call = products.run_alone(group, options.device, dtype)
                measure(names, call, sum(product.flops for product in group) / 1e12, "TFLOP/s")
    with write_jpegs(32 if options.quick else 256) as files:
        try:
            call, who = decoder(files, 16, options.device)
        except RuntimeError as error:  # a DALI that finds no decoder for this GPU
            record.add([{"part": "limits", "side": "JPEG decoding", "note": f"not run: {reason(error)}"}])
        else:
            measure({"side": f"JPEG decoding, {who}"}, call, len(files) // 16 * 16, "images/s", Clock("cpu"))
    print(table.screen(record.rows, COLUMNS))
    return 0
