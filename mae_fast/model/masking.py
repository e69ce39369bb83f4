"""Where masks are drawn: noise for each patch; in each image the patches with the lowest noise are kept.

A mask is a function (draw, grid) -> noise (batch, L) for a grid of (rows, columns) patches. draw(n) gives it n uniform
numbers in 0..1 for each image, float32 (batch, n), from torch's generator (`by_torch`) or from the counter of the
sample (`SampleNoise`). How many patches are kept is for the mask ratio to say, exactly: int(L * (1 - mask_ratio)).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mae_fast import ops
from mae_fast.model import philox

Draw = Callable[[int], Tensor]
Mask = Callable[[Draw, tuple[int, int]], Tensor]

BLOCKS = 32  # so many that they cover a grid nearly whole
BLOCK_SHARE = 0.08, 0.3  # of the grid, the least and the most that one block covers: 16 to 59 of 14 x 14 patches
BLOCK_ASPECT = 0.3, 1 / 0.3  # rows by columns of a block (Bao et al. 2021, arXiv 2106.08254, algorithm 1)


def random(draw: Draw, grid: tuple[int, int]) -> Tensor:
    """Every set of patches is as likely (He et al. 2022)."""
    return draw(grid[0] * grid[1])


def block(draw: Draw, grid: tuple[int, int]) -> Tensor:
    """Rectangles are removed, one after another, until the share is reached (BEiT, Bao et al. 2021).

    Of the last one as many patches as are wanted. Unlike BEiT's they may hang over the edge: every patch is as likely.
    """
    L = grid[0] * grid[1]
    numbers = draw(L + 4 * BLOCKS)
    area, aspect, top, left = numbers[:, L:].unflatten(1, (4, BLOCKS)).unbind(1)
    area = (BLOCK_SHARE[0] + (BLOCK_SHARE[1] - BLOCK_SHARE[0]) * area) * L
    aspect = BLOCK_ASPECT[0] * (BLOCK_ASPECT[1] / BLOCK_ASPECT[0]) ** aspect
    covered = []
    for side, length, at in ((0, (area * aspect).sqrt(), top), (1, (area / aspect).sqrt(), left)):
        length = length.round().clamp(1, grid[side])
        first = (at * (grid[side] + length - 1)).floor() - (length - 1)
        cells = torch.arange(grid[side], device=numbers.device)
        covered.append((cells >= first[..., None]) & (cells < (first + length)[..., None]))  # (batch, BLOCKS, side)
    inside = covered[0][:, :, :, None] & covered[1][:, :, None, :]  # (batch, BLOCKS, rows, columns)
    order = torch.arange(BLOCKS, 0, -1, device=numbers.device).view(1, -1, 1, 1)
    return (inside * order).amax(1).flatten(1) + numbers[:, :L]


def grid(draw: Draw, grid: tuple[int, int]) -> Tensor:
    """A regular lattice is kept: one of every 2 x 2 patches at ratio 0.75 (He et al. 2022, table 1f), two at 0.5.

    Which of the four is drawn for each image, so that all positions are trained. Other ratios add or remove some of
    them at random.
    """
    numbers = draw(grid[0] * grid[1] + 2)
    shift = (numbers[:, -2:] < 0.5).long()
    rows = (torch.arange(grid[0], device=numbers.device) + shift[:, :1]) % 2
    columns = (torch.arange(grid[1], device=numbers.device) + shift[:, 1:]) % 2
    rows, columns = rows[:, :, None], columns[:, None, :]
    turn = 2 * (rows ^ columns) + rows  # 0, 2 in even rows and 3, 1 in odd ones: the first two are a diagonal
    return turn.flatten(1) + numbers[:, :-2]


MASKS: dict[str, Mask] = {"random": random, "block": block, "grid": grid}  # their names: mae_fast.config.MASKS


def fixed(mask: Tensor) -> Mask:
    """A mask of one's own: (rows, columns) numbers, the highest removed first, ties at random in each image."""
    if mask.dim() != 2:
        raise ValueError(f"mask: expected (rows, columns), a number a patch; got shape {tuple(mask.shape)}")
    order = mask.double().unique(return_inverse=True)[1]

    def draw_fixed(draw: Draw, grid: tuple[int, int]) -> Tensor:
        if grid != tuple(mask.shape):
            raise ValueError(f"mask: it is of {tuple(mask.shape)} patches, and the images are of {grid}")
        numbers = draw(grid[0] * grid[1])
        return order.to(numbers.device).flatten() + numbers

    return draw_fixed


def mask_named(mask: str | Mask) -> Mask:
    """The mask of that name, or the function itself. ValueError for another name."""
    if callable(mask):
        return mask
    if mask not in MASKS:
        raise ValueError(f"mask: expected one of {', '.join(MASKS)}, or a function; got {mask!r}")
    return MASKS[mask]


def by_torch(mask: str | Mask) -> Callable:
    """-> draw_noise of a model, (batch, grid, device) -> noise (batch, L), whose numbers are of torch's generator."""
    mask = mask_named(mask)
    return lambda batch, grid, device: mask(lambda n: torch.rand(batch, n, device=device), grid)


def uniform(batch: int, grid: tuple[int, int], device: torch.device) -> Tensor:
    """Noise (batch, L) of the mask `random`, from torch's generator: a model's draw_noise by default."""
    return torch.rand(batch, grid[0] * grid[1], device=device)


class SampleNoise:
    """Noise that belongs to the sample: a function of (seed, epoch, its place in the epoch's order).

    Any number of processes, however they cut the epoch into batches, draws the same masks; so does a run that goes on.
    The epoch and the place are tensors on the device, which compiled code and CUDA graphs read.
    mask: a name of MASKS, or a function as they are.
    """

    def __init__(self, seed: int, device: torch.device, mask: str | Mask = "random"):
        self.seed, self.mask = seed, mask_named(mask)
        self.epoch, self.place = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))

    def at(self, epoch: int, place: int) -> None:
        """Say what the next batch is: samples of consecutive places from `place` on."""
        self.epoch.fill_(epoch)
        self.place.fill_(place)

    def __call__(self, batch: int, grid: tuple[int, int], device: torch.device, masks: int = 1) -> Tensor:
        """-> noise (masks * batch, L): the first mask of each image, then the second of each."""
        rows = self.place + torch.arange(batch, device=device)

        def draw(n: int) -> Tensor:
            numbers = philox.uniform(rows, masks * n, self.epoch, self.seed)
            return numbers if masks == 1 else numbers.view(batch, masks, n).transpose(0, 1).flatten(0, 1)

        return self.mask(draw, grid)


def draw_mask(
    noise: Tensor | Callable,
    batch: int,
    grid: tuple[int, int],
    device: torch.device,
    mask_ratio: float,
    several: bool = False,
) -> tuple[Tensor, Tensor, Tensor, int]:
    """-> ids_shuffle, ids_restore (B, L), mask (B, L) with 1 = removed, the number of patches kept.

    noise: (B, L), or what draws it. several: it may be (k B, L), k masks of each image, and so are the results.
    """
    L = grid[0] * grid[1]
    if not 0 <= mask_ratio <= 1:
        raise ValueError(f"mask_ratio: expected a share of the patches, 0 to 1; got {mask_ratio}")
    if not isinstance(noise, Tensor):
        noise = noise(batch, grid, device)
    elif noise.dim() != 2 or noise.shape[1] != L or (len(noise) != batch and not (several and _times(noise, batch))):
        raise ValueError(f"noise: expected ({batch}, {L}), one number a patch; got {tuple(noise.shape)}")
    len_keep = int(L * (1 - mask_ratio))
    return *ops.random_masking(noise, len_keep), len_keep


def _times(noise: Tensor, batch: int) -> bool:
    return batch > 0 and len(noise) > 0 and len(noise) % batch == 0


def of_each(x: Tensor, batch: int) -> tuple[Tensor, ...]:
    """Rows of k masks of each image (k * batch, ...) -> k times (batch, ...)."""
    return (x,) if len(x) == batch else x.split(batch)
