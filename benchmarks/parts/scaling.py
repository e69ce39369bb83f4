"""Our training step at several batch sizes, and on several processes of this machine.

    mae-fast bench scaling [--presets base] [--batch 8,16,32] [--ranks 1,2]

Ranks are processes under DistributedDataParallel, each with the largest of the batch sizes and, on a CPU, its share of
the threads; on CUDA each needs a GPU. A step, compiled and without the CUDA graph that only a lone process can have, is
timed on rank 0 between two barriers. `of limit`: images/s beside the same number of lone processes' (batch: beside the
best rate of any batch size).
"""

import argparse
import socket
import time

import torch
from torch import distributed as dist
from torch import multiprocessing
from tqdm import tqdm

from benchmarks.harness import table
from benchmarks.harness.options import Options, count, listed
from benchmarks.harness.timing import Clock, summary, take_turns
from mae_fast.config import DTYPES, SIZES
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import distributed
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep

LR = 1.5e-4


def steps(
    preset: str, batches: list[int], dtype: str, img_size: int, device: str, rounds: int, keep=lambda seconds: None
) -> list[list[float]]:
    """Seconds of each round at each batch size, in turn; in all ranks of the process group, where there is one.

    keep: called after each round with what is returned in the end.
    """
    if device == "cpu":
        keep_freed_memory()
    torch.manual_seed(0)
    model = MaskedAutoencoderViT(**SIZES[preset].kwargs(), img_size=img_size, norm_pix_loss=True).to(device)
    optimizer = make_optimizer(model, "adamw", LR, 0.05)
    train = TrainingStep(model, optimizer, dtype=DTYPES[dtype], compile=True, cuda_graphs=False)

    def step(imgs) -> None:
        distributed.barrier()
        train(imgs, LR)
        distributed.barrier()

    def draw() -> tuple:
        return ([torch.randn(batch, 3, img_size, img_size, device=device) for batch in batches],)

    sides = {batch: lambda imgs, i=i: lambda: step(imgs[i]) for i, batch in enumerate(batches)}
    label = None if dist.is_initialized() else f"{preset}, batch"  # one bar is enough
    turns = take_turns(
        sides, draw, rounds, Clock(device), label=label, after_round=lambda seconds: keep(list(seconds.values()))
    )
    return list(turns.seconds.values())


def _rank(rank: int, ranks: int, port: int, threads: int, arguments: tuple, queue) -> None:
    device = arguments[4]
    torch.set_num_threads(threads)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"tcp://localhost:{port}", rank=rank, world_size=ranks)
    seconds = steps(*arguments)
    if rank == 0:
        queue.put(seconds)
    distributed.shutdown()


def on_ranks(ranks: int, *arguments) -> list[list[float]]:
    """`steps` on several processes of this machine. RuntimeError where one of them failed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    threads = max(1, torch.get_num_threads() // ranks)
    multiprocessing.spawn(_rank, (ranks, port, threads, arguments, queue), nprocs=ranks)
    return queue.get()


COLUMNS = {
    "batch": lambda row: str(row["batch"]),
    "ranks": lambda row: str(row["ranks"]),
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": table.ms,
    "of limit": table.share,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    ranks = {"type": listed(count), "default": [1, 2], "metavar": "N,..."}
    parser.add_argument("--ranks", **ranks, help="numbers of processes")


def run(options: Options) -> int:
    dtype = next(iter(options.dtypes))
    for name in options.presets:
        rows = measure(name, dtype, options)
        print(f"\n{name}, {dtype}, ours compiled")
        print(table.screen(rows, COLUMNS), flush=True)
    return 0


def measure(name: str, dtype: str, options: Options) -> list[dict]:
    """Time each batch size, then each number of ranks; a row each, recorded as soon as it is known."""
    record = options.record(f"scaling_{name}")
    default = options.batch_of(name)
    batches = options.batches if len(options.batches) > 1 else [max(1, default // 4), default // 2, default]
    rest = (dtype, options.img_size, options.device, options.rounds_or(7))

    def lone_rows(seconds: list[list[float]]) -> list[dict]:
        rows = [_row(name, dtype, batch, 1, taken) for batch, taken in zip(batches, seconds, strict=True)]
        best = max(row["images_per_s"] for row in rows)
        return [row | {"of_limit": row["images_per_s"] / best} for row in rows]

    rows = lone_rows(steps(name, batches, *rest, keep=lambda seconds: record.put(lone_rows(seconds))))
    lone = rows[-1]["images_per_s"]
    for ranks in tqdm([n for n in options.own.ranks if n > 1], unit=" runs", leave=False):
        row = _identity(name, dtype, batches[-1], ranks)
        if options.device == "cuda" and ranks > torch.cuda.device_count():
            row["note"] = f"not run: {torch.cuda.device_count()} GPUs here"
        elif time.monotonic() > options.until:
            row["note"] = "not run: no time left"
        else:
            row = _row(name, dtype, batches[-1], ranks, on_ranks(ranks, name, batches[-1:], *rest)[0])
            # The cores of a CPU are shared out, so a lone process with all of them is as fast as ranks can be.
            row["of_limit"] = row["images_per_s"] / lone / (ranks if options.device == "cuda" else 1)
        rows.append(row)
        record.put([row])
    return rows


def _identity(preset: str, dtype: str, batch: int, ranks: int) -> dict:
    return {"part": "scaling", "preset": preset, "dtype": dtype, "batch": batch, "ranks": ranks, "side": "ours"}


def _row(preset: str, dtype: str, batch: int, ranks: int, seconds: list[float]) -> dict:
    row = _identity(preset, dtype, batch, ranks) | {"seconds": seconds, **summary(seconds)}
    return row | {"images_per_s": ranks * batch / row["median_s"]}
