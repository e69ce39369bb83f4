"""Which pictures make a batch and which random numbers they get, as pure functions of (seed, epoch, rank, batch).

Nothing is remembered between calls, so any batch can be made again alone and resuming is starting at another number.
"""

import numpy as np

_ORDER, _DRAWS = 1, 2  # keeps the two streams of random numbers apart


class Sampler:
    """One rank's share of the epoch, in batches; the last incomplete batch is dropped."""

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world_size: int):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        return -(-self.size // self.world_size) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """int64: this rank's pictures. The epoch's permutation is padded from its start so that the ranks are even."""
        shuffled = _generator(_ORDER, self.seed, epoch).permutation(self.size)
        per_rank = -(-self.size // self.world_size)
        return np.resize(shuffled, per_rank * self.world_size)[self.rank :: self.world_size]

    def draws(self, epoch: int, batch: int, count: int) -> np.ndarray:
        """float64 (batch_size, count), uniform in [0, 1)."""
        return _generator(_DRAWS, self.seed, epoch, self.rank, batch).random((self.batch_size, count))


def _generator(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
