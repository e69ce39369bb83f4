"""One process per device: who we are, and the few things ranks must agree on."""

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from mae_fast.train import launcher
from mae_fast.train.heartbeat import Heartbeat

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """This process's place among all: rank of size processes, local_rank on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def init(
    device_type: str,
    dist_url: str = "env://",
    dist_on_itp: bool = False,
    world_size: int = 1,
    timeout: float = 1800,
    remedy: Callable[[], str] = lambda: "",
) -> World:
    """Join the process group that torchrun, Open MPI (dist_on_itp) or Slurm started; alone where none did.

    timeout: seconds that an operation among ranks may take, at least; remedy: what the user is told besides where
    another rank is gone (mae_fast.train.heartbeat). Raises ValueError where a launcher's variables are half set.
    """
    global heartbeat
    place = launcher.find(os.environ, dist_url, dist_on_itp, world_size)
    world = World(place.rank, place.size, place.local_rank)
    if device_type == "cuda" and place.launcher:
        devices = torch.cuda.device_count()
        if world.local_rank >= devices:
            raise ValueError(f"LOCAL_RANK: {world.local_rank}, but this machine has {devices} GPUs; start so many")
        torch.cuda.set_device(world.local_rank)
    if not place.url:
        return world
    limit = timedelta(seconds=timeout)
    store, _, _ = next(iter(dist.rendezvous(place.url, world.rank, world.size, timeout=limit)))
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # torchrun, on one machine, keeps its store over restarts, and in it
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the addresses of ranks that are dead
        store = dist.PrefixStore(f"attempt/{attempt}", store)
    backend = "nccl" if device_type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=limit)
    if world.size > 1:
        name = gather(uuid.uuid4().hex)[0]
        heartbeat = Heartbeat(dist.PrefixStore(name, store), world.rank, world.size, remedy)
    if world.is_main:
        logger.info("%d process%s, started by %s", world.size, "es" * (world.size > 1), place.launcher)
    return world


heartbeat: Heartbeat | None = None


@contextlib.contextmanager
def leaving():
    """Around a run: at its end, whatever it is, this rank leaves the group, and tells the others why it did.

    Raises RankLost in place of the error of an operation among ranks, where another rank is behind it.
    """
    reason, lost = "", None
    try:
        yield
    except BaseException as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        if isinstance(error, RuntimeError) and _is_among_ranks(error) and heartbeat:
            lost = heartbeat.blame()
        if lost:
            raise lost from error
        raise
    finally:
        if not lost:  # else leaving would wait for the lost rank, in a group that is of no more use
            shutdown(reason)


def _is_among_ranks(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "NCCL", "Connection"))


_left: dist.ProcessGroup | None = None


def shutdown(reason: str = "") -> None:
    """Leave the process group, but keep its handle. reason: why the run cannot go on, for the other ranks to tell.

    DistributedDataParallel may outlive it, and must not be the last to let go: it would wait for gloo's thread with
    Python's lock held, while that thread may wait for the lock to free a finished barrier (PyTorch 2.13).
    """
    global _left, heartbeat
    if heartbeat:
        heartbeat.leave(reason)
        heartbeat = None
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


def by_main(work: Callable):
    """What `work` gives on rank 0, on every rank; where it raises, every rank does. Every rank must call it."""
    result, error = None, None
    if rank() == 0:
        try:
            result = work()
        except (OSError, ValueError) as caught:
            error = caught
    result, error = gather((result, error))[0]
    if error:
        raise error
    return result


def barrier() -> None:
    if dist.is_initialized():
        dist.barrier()
