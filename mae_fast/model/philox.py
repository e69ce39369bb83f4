"""Random numbers as a function of a counter: Philox 4x32-10 (Salmon et al. 2011), in plain tensor arithmetic.

The same numbers on every device, compiled or not, however they are spread over calls. 32-bit words are kept in int64.
"""

import torch
from torch import Tensor

MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four tensors of words that broadcast, and two words -> four words each."""
    c0, c1, c2, c3 = counter
    for turn in range(10):
        k0, k1 = ((k + turn * step) & WORD for k, step in zip(key, WEYL, strict=True))
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return c0, c1, c2, c3


def _product(x: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """-> the high and the low word of x * factor, by halves of the factor: 64 bits and a sign do not hold it."""
    low_part, high_part = x * (factor & 0xFFFF), x * (factor >> 16)
    return (high_part + (low_part >> 16)) >> 16, ((high_part << 16) + low_part) & WORD


def uniform(rows: Tensor, columns: int, stream: Tensor, seed: int) -> Tensor:
    """float32 (len(rows), columns) in [0, 1), in steps of 2^-24: a number for each (seed, stream, row, column).

    rows: int64 (B,), at least 0; stream: int64 of no dimension, 0 to 2^32 - 1; seed: 0 to 2^64 - 1.
    """
    blocks = torch.arange(-(-columns // 4), device=rows.device)
    counter = blocks, (rows & WORD)[:, None], (rows >> 32)[:, None], stream
    words = philox(counter, (seed & WORD, seed >> 32 & WORD))
    return (torch.stack(words, dim=-1) >> 8).flatten(1)[:, :columns].float() * 2.0**-24
