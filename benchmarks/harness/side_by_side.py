"""Several implementations of a training step on one batch: each is held to the parity rule before it is timed."""

from collections.abc import Callable

import torch
from torch import Tensor

from mae_fast.parity.model import Errors, Gate

SEED = 1  # of the masks by which sides are compared


def draw_images(batch: int, img_size: int, device: str) -> tuple[Tensor]:
    """What a step is timed on: fresh random images, normalised."""
    return (torch.randn(batch, 3, img_size, img_size, device=device),)


def gate_of(state: dict, kwargs: dict, imgs: Tensor, dtypes: set[torch.dtype]) -> Gate:
    """The numbers of a batch in float64. state, kwargs: weights and arguments of the model."""
    torch.manual_seed(SEED)
    noise = torch.rand(len(imgs), (kwargs["img_size"] // kwargs["patch_size"]) ** 2, device=imgs.device)
    return Gate(state, kwargs, imgs, noise, dtypes)


def hold(
    gate: Gate,
    dtype: torch.dtype,
    run: Callable[[Tensor], Tensor],
    gradients: Callable[[], dict[str, Tensor]],
    clear: Callable[[], None],
) -> tuple[Errors, str]:
    """-> a side's errors, and why it may not be timed; "" where it may.

    run: forward and backward pass on images, gives the loss. gradients: what it left, by official key; clear: puts them
    away.
    """
    torch.manual_seed(SEED)
    loss = run(gate.imgs).item()
    errors = gate.errors(loss, gradients())
    failed = [row for row in gate.rows(errors, dtype) if not row.holds]
    if not failed:
        return errors, ""
    worst = max(failed, key=lambda row: row.of_allowed)
    return errors, (
        f"fails parity, not timed: {worst.result}: error {worst.error:.1e}, plain PyTorch {worst.plain:.1e}, "
        f"allowed {worst.allowed:.1e}"
    )
