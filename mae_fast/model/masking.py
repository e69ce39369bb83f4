"""Where masks are drawn: noise for each patch; in each image the patches with the lowest noise are kept."""

from collections.abc import Callable

import torch
from torch import Tensor

from mae_fast import ops
from mae_fast.model import philox


def uniform(batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Noise (batch, L) for a grid of (rows, columns) patches: every set of patches is as likely (He et al. 2022).

    Another mask is another function with these arguments, given to the model as draw_noise: the smallest values of its
    noise are the patches to keep.
    """
    return torch.rand(batch, grid[0] * grid[1], device=device)


class SampleNoise:
    """Uniform noise that belongs to the sample: a function of (seed, epoch, its place in the epoch's order).

    Any number of processes, however they cut the epoch into batches, draws the same masks; so does a run that goes on.
    The epoch and the place are tensors on the device, which compiled code and CUDA graphs read.
    """

    def __init__(self, seed: int, device: torch.device):
        self.seed = seed
        self.epoch, self.place = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))

    def at(self, epoch: int, place: int) -> None:
        """Say what the next batch is: samples of consecutive places from `place` on."""
        self.epoch.fill_(epoch)
        self.place.fill_(place)

    def __call__(self, batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
        rows = self.place + torch.arange(batch, device=device)
        return philox.uniform(rows, grid[0] * grid[1], self.epoch, self.seed)


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
