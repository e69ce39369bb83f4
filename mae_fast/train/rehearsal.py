"""Passes that run for what they set up, compiled code and moments, and change nothing that training goes on from."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from mae_fast.train.run_state import rng_state, set_rng_state


@contextlib.contextmanager
def rehearsal(loss: nn.Module, scaler: torch.amp.GradScaler, device: torch.device) -> Iterator[None]:
    """Inside, `loss` has no gradients, and passes may run; afterwards all is as before, also after an error.

    That is: gradients, buffers and untrained parameters (running means, say, that a forward pass moves), the random
    state of CPU and device, the scale of the loss. Weights and moments are for who runs an update to leave alone.
    """
    trained = [(p, p.grad) for p in loss.parameters() if p.requires_grad]
    others = [*loss.buffers(), *(p for p in loss.parameters() if not p.requires_grad)]
    copies = [x.clone() for x in others]
    random, scale = rng_state(device), scaler.state_dict()
    for p, _ in trained:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in trained:
            p.grad = gradient
        with torch.no_grad():
            for x, copy in zip(others, copies, strict=True):
                x.copy_(copy)
        set_rng_state(random, device)
        if scale:  # a scaler that is off has none
            scaler.load_state_dict(scale)
