"""One process per device: who we are, and the few things ranks must agree on."""

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class World:
    """This process's place among all: rank of size processes, local_rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def init(device_type: str, dist_url: str = "env://", dist_on_itp: bool = False, world_size: int = 1) -> World:
    """Join the process group that torchrun, Open MPI (dist_on_itp) or Slurm started; alone where none did."""
    env = os.environ
    if dist_on_itp:
        names = "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"
        world = World(*(int(env[name]) for name in names))
        dist_url = f"tcp://{env['MASTER_ADDR']}:{env['MASTER_PORT']}"
    elif "RANK" in env and "WORLD_SIZE" in env:
        world = World(int(env["RANK"]), int(env["WORLD_SIZE"]), int(env.get("LOCAL_RANK", 0)))
    elif "SLURM_PROCID" in env and world_size > 1:
        world = World(int(env["SLURM_PROCID"]), world_size, int(env.get("SLURM_LOCALID", 0)))
    else:
        return World()
    if device_type == "cuda":
        torch.cuda.set_device(world.local_rank)
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=dist_url, rank=world.rank, world_size=world.size)
    return world


_left: dist.ProcessGroup | None = None


def shutdown() -> None:
    """Leave the process group, but keep its handle.

    DistributedDataParallel may outlive it, and must not be the last to let go: it would wait for gloo's thread with
    Python's lock held, while that thread may wait for the lock to free a finished barrier (PyTorch 2.13).
    """
    global _left
    if dist.is_initialized():
        _left = dist.group.WORLD
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def mean_(x: Tensor) -> Tensor:
    """Average x over all ranks, in place."""
    if size() > 1:
        dist.all_reduce(x)
        x /= dist.get_world_size()
    return x


def any_(flag: Tensor) -> Tensor:
    """Make a 0/1 flag 1 everywhere if it is 1 anywhere, in place."""
    if size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return flag


def gather(value) -> list:
    """Every rank's picklable value, in order of rank, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
