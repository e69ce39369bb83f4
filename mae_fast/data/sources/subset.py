"""Some of the images of a source."""

import numpy as np


class Subset:
    """Images of a source, spread evenly over it: at most `count`, in its order. All else is as the source has it.

    rank, of: every rank's share of them, as many on each; the remainder is left out.
    """

    def __init__(self, source, count: int, rank: int = 0, of: int = 1):
        self.source, self.holds, self.classes = source, source.holds, source.classes
        count = min(count, len(source)) // of * of
        self.indices = (np.arange(count) * len(source) // count)[rank::of]
        self.labels = source.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))

    def encoded(self, index: int):
        return self.source.encoded(int(self.indices[index]))
