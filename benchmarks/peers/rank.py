"""A process that trains on one core, alone or as a rank of several, and takes steps when it is told to.

It is started by benchmarks.parts.ranks and hears of it as benchmarks.harness.processes says.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.harness.processes import commands
from benchmarks.harness.record import reason
from mae_fast.config import DTYPES, SIZES
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import distributed
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.losses import MAELoss
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep

LR = 1.5e-4


def prepare(work: dict) -> tuple[Callable[[], object], Callable[[], None], int]:
    """-> (a step, an exchange of all gradients and nothing else, bytes of gradients)."""
    keep_freed_memory()
    torch.set_num_threads(1)
    if work["address"]:
        url = f"tcp://{work['address']}"
        dist.init_process_group("gloo", init_method=url, rank=work["rank"], world_size=work["ranks"])
    torch.manual_seed(0)
    size = work["img_size"]
    model = MaskedAutoencoderViT(**SIZES[work["preset"]].kwargs(), img_size=size, norm_pix_loss=True)
    optimizer = make_optimizer(model, "adamw", LR, 0.05)
    step = TrainingStep(MAELoss(model), optimizer, dtype=DTYPES[work["dtype"]], compile=False)
    imgs = torch.randint(0, 256, (work["batch"], size, size, 3), dtype=torch.uint8)
    gradients = [torch.zeros_like(p) for p in step.parameters]
    buckets = torch.cat([x.flatten() for x in gradients]).split(25 * 2**20 // 4)  # DistributedDataParallel's size

    def exchange() -> None:
        for bucket in buckets:
            dist.all_reduce(bucket)

    return lambda: step(imgs, LR), exchange, 4 * sum(x.numel() for x in gradients)


def loopback() -> int | None:
    """Bytes that this machine has sent to itself; None where the kernel does not tell."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split(":")[1].split()[8]) for line in lines if line.strip().startswith("lo:")), None)


def timed(call: Callable[[], object], n: int) -> dict:
    """Seconds a call, of n, and bytes over the loopback device in them."""
    sent, began = loopback(), time.perf_counter()
    for _ in range(n):
        call()
    seconds = (time.perf_counter() - began) / n
    return {"seconds": seconds, "sent": None if sent is None else (loopback() - sent) / n}


def main(work: dict) -> None:
    os.sched_setaffinity(0, {work["core"]})
    say, asked = commands()
    try:
        step, exchange, size = prepare(work)
        step()
        say(gradient_bytes=size)
        for command in asked:
            ((what, n),) = command.items()
            say(**timed({"steps": step, "exchanges": exchange}[what], n))
        distributed.shutdown()
    except Exception as error:
        say(error=reason(error))
        raise  # the log has it whole


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
