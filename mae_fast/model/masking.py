"""Where masks are drawn: noise for each patch; in each image the patches with the lowest noise are kept."""

from collections.abc import Callable

import torch
from torch import Tensor

from mae_fast import ops


def uniform(batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Noise (batch, L) for a grid of (rows, columns) patches: every set of patches is as likely (He et al. 2022).

    Another mask is another function with these arguments, given to the model as draw_noise: the smallest values of its
    noise are the patches to keep.
    """
    return torch.rand(batch, grid[0] * grid[1], device=device)


def draw_mask(
    noise: Tensor | Callable, batch: int, grid: tuple[int, int], device: torch.device, mask_ratio: float
) -> tuple[Tensor, Tensor, Tensor, int]:
    """-> ids_shuffle, ids_restore (B, L), mask (B, L) with 1 = removed, the number of patches kept.

    noise: (B, L), or what draws it.
    """
    L = grid[0] * grid[1]
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio: expected a share of the patches, 0 to 1; got {mask_ratio}")
    if not isinstance(noise, Tensor):
        noise = noise(batch, grid, device)
    elif noise.shape != (batch, L):
        raise ValueError(f"noise: expected ({batch}, {L}), one number a patch; got {tuple(noise.shape)}")
    len_keep = int(L * (1 - mask_ratio))
    return *ops.random_masking(noise, len_keep), len_keep
