"""Where masks are drawn: noise for each patch; in each image the patches with the lowest noise are kept."""

import torch
from torch import Tensor


def uniform(batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Noise (batch, L) for a grid of (rows, columns) patches: every set of patches is as likely (He et al. 2022).

    Another mask is another function with these arguments, given to the model as draw_noise: the smallest values of its
    noise are the patches to keep.
    """
    return torch.rand(batch, grid[0] * grid[1], device=device)
