"""How a loss module is spread over the ranks of the process group, and how they exchange gradients.

ddp: DistributedDataParallel, a whole copy on each rank. fsdp: FSDP2 (torch.distributed.fsdp.fully_shard), weights,
gradients and moments shared out, those of a block brought together while the block runs.
"""

import contextlib
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mae_fast.model.blocks import Block
from mae_fast.train import distributed


def shard(loss: nn.Module, device: torch.device, exchanged: torch.dtype = torch.float32) -> nn.Module:
    """Share out the parameters of loss over all ranks, block by block, in place; before an optimizer is made of them.

    exchanged: the type in which gradients are added up over ranks.
    """
    from torch.distributed.device_mesh import init_device_mesh  # a second to import, for those who need it
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    for x in (*loss.parameters(), *loss.buffers()):  # each rank keeps a share of its own copy
        dist.broadcast(x.data, 0)
    mesh = init_device_mesh(device.type, (distributed.size(),))
    policy = MixedPrecisionPolicy(reduce_dtype=exchanged)
    for block in filter(lambda module: isinstance(module, Block), loss.modules()):
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(loss, mesh=mesh, mp_policy=policy)


def is_sharded(loss: nn.Module) -> bool:
    return hasattr(loss, "set_requires_gradient_sync")  # FSDP2 has made it an FSDPModule


def is_share(x: Any) -> bool:
    return hasattr(x, "full_tensor")  # a DTensor


def wrap(loss: nn.Module, device: torch.device, exchanged: torch.dtype = torch.float32) -> nn.Module:
    """The same loss, whose backward pass averages gradients over all ranks. One process: the module itself.

    exchanged: the type in which they are. Not static_graph: each parameter is used once anyway, and PyTorch 2.13 then
    fails at a first pass that exchanges nothing, as accumulation begins and as compiled passes are tried.
    """
    if distributed.size() == 1 or is_sharded(loss):
        return loss
    # The patch embedding's weight, whose gradient comes in the order of our patches: a copy of 2 MB, and no matter.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    devices = [device.index] if device.type == "cuda" else None
    ddp = DistributedDataParallel(loss, device_ids=devices, gradient_as_bucket_view=True)
    if exchanged == torch.bfloat16:
        ddp.register_comm_hook(None, _in_bf16)
    return ddp


def _in_bf16(state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """PyTorch's own hook, which under its own name is refused with gloo."""
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook

    return bf16_compress_hook(state, bucket)


def exchange(loss: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """Around a backward pass. now=False: gradients add up on their rank, and a later backward pass exchanges them.

    Not those of a loss that is shared out: no rank keeps them whole, so each pass exchanges them.
    """
    if now or not isinstance(loss, DistributedDataParallel):
        return contextlib.nullcontext()
    return loss.no_sync()


@contextlib.contextmanager
def together(loss: nn.Module):
    """While this lasts, parts of a loss that is shared out can be called outside of its forward pass, by every rank."""
    if is_sharded(loss):
        loss.unshard()
    try:
        yield
    finally:
        if is_sharded(loss):
            loss.reshard()


def gathered(state: Any) -> Any:
    """A tree of dicts and lists -> the same with whole tensors; where some are shared out, each rank must call it.

    Of those only rank 0 gets the values, in its CPU's memory.
    """
    if isinstance(state, dict):
        return {key: gathered(value) for key, value in state.items()}
    if isinstance(state, list):
        return [gathered(value) for value in state]
    if not is_share(state):
        return state
    values = state.full_tensor()
    return values.cpu() if distributed.rank() == 0 else None


def spread(state: dict, like: dict) -> dict:
    """Whole tensors -> this rank's share of each whose namesake in `like`, of the same shape, is shared out."""
    return {key: _share(value, like.get(key)) for key, value in state.items()}


def _share(x: Any, like: Any) -> Any:
    if not is_share(like) or getattr(x, "shape", None) != like.shape:
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x, like.device_mesh, like.placements, src_data_rank=None)


def whole(x: Tensor) -> Tensor:
    """A number that ranks hold parts of, on each of them; any other as it is."""
    return x.full_tensor() if is_share(x) else x
