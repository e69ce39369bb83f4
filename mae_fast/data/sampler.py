"""Which pictures make a batch and which random numbers they get, as pure functions of (seed, epoch, place).

A place is an index into the epoch's order. Randomness belongs to it, not to the rank or the batch: an epoch may be cut
into batches for any number of ranks. Nothing is remembered between calls, so any batch can be made again alone, and
resuming is starting at another place.
"""

import numpy as np

_ORDER, _DRAWS = 1, 2  # keeps the two streams of random numbers apart
_COUNTER = 4  # numbers that Philox gives for each value of its counter


class Sampler:
    """One rank's share of each global batch: its consecutive places. The last incomplete global batch is dropped."""

    def __init__(self, size: int, batch_size: int, seed: int, rank: int, world_size: int):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        return self.size // (self.batch_size * self.world_size)

    def order(self, epoch: int) -> np.ndarray:
        """int64 (size,): the pictures of an epoch by place, the same on every rank."""
        return _generator(_ORDER, self.seed, epoch).permutation(self.size)

    def first_place(self, batch: int) -> int:
        """Where this rank's batch begins; its places follow one another."""
        return (batch * self.world_size + self.rank) * self.batch_size

    def places(self, batch: int) -> range:
        """This rank's places in a batch of the epoch."""
        first = self.first_place(batch)
        return range(first, first + self.batch_size)

    def draws(self, epoch: int, batch: int, count: int) -> np.ndarray:
        """float64 (batch_size, count), uniform in [0, 1): a row belongs to its place."""
        counters = -(-count // _COUNTER)
        generator = _generator(_DRAWS, self.seed, epoch, counter=self.first_place(batch) * counters)
        return generator.random((self.batch_size, counters * _COUNTER))[:, :count]


class InOrder(Sampler):
    """One rank's share of every picture once, in the source's order: no random numbers, and the last batch is short."""

    def __init__(self, size: int, batch_size: int, rank: int, world_size: int):
        super().__init__(size, batch_size, 0, rank, world_size)

    def __len__(self) -> int:
        """Batches on this rank, on some ranks one fewer than on others."""
        return max(0, -(-(self.size - self.rank * self.batch_size) // (self.batch_size * self.world_size)))

    def order(self, epoch: int) -> np.ndarray:
        return np.arange(self.size)

    def places(self, batch: int) -> range:
        first = self.first_place(batch)
        return range(first, min(first + self.batch_size, self.size))


def _generator(*key: int, counter: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)).advance(counter))
