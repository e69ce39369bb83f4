"""How a loss module is spread over the ranks of the process group. DistributedDataParallel: a whole copy on each."""

import contextlib

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mae_fast.train import distributed


def wrap(loss: nn.Module, device: torch.device) -> nn.Module:
    """The same loss, whose backward pass averages gradients over all ranks. One process: the module itself."""
    if distributed.size() == 1:
        return loss
    return DistributedDataParallel(loss, device_ids=[device.index] if device.type == "cuda" else None)


def exchange(loss: nn.Module, now: bool) -> contextlib.AbstractContextManager:
    """Around a backward pass. now=False: gradients add up on their rank, and a later backward pass exchanges them."""
    if now or not isinstance(loss, DistributedDataParallel):
        return contextlib.nullcontext()
    return loss.no_sync()
