"""Fixed two-dimensional sine-cosine positions, and positions for another image size."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, 1 + rows * columns, dim), float32, for a grid of (rows, columns) patches.

    The first row, for the class token, is zero. A patch at (x, y) gets [sin x, cos x, sin y, cos y], a quarter of dim
    each, at frequencies 10000^(-4i / dim): x before y, as in the official release and all its checkpoints.
    Computed in float64, so that the rounded values are those of the checkpoints to the last bit.
    """
    frequency = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    y, x = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    angles = [np.outer(axis, frequency) for axis in (x, y)]
    table = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    table = np.vstack([np.zeros(dim), table])
    return torch.tensor(table, dtype=torch.float32).unsqueeze(0)  # on the device of a `with torch.device(...)`


def resize(pos_embed: Tensor, grid: tuple[int, int], new_grid: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + rows * columns, dim) for another grid, bicubic, as the official finetuning does.

    The first row, for the class token, stays. Computed in float32 at least, returned in the type given.
    """
    if grid == new_grid:
        return pos_embed
    table = pos_embed[:, 1:].to(torch.promote_types(pos_embed.dtype, torch.float32)).unflatten(1, grid)
    table = F.interpolate(table.permute(0, 3, 1, 2), size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([pos_embed[:, :1], table.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)
