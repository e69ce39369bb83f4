"""How a head lies in packed qkv (B, N, 3, H, D), and the tiles its tokens are cut into: shared by attention kernels.

A program has one head of one image: base pointers in 64 bits, offsets inside the head in 32. Tokens and widths are
constants of a kernel (a model has two or three N), so whole tiles are read and written without a mask.
"""

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x * LOG2_E): exp2 is the instruction a GPU has
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def load_rows(x, first, stride_n, stride_d, N: tl.constexpr, D: tl.constexpr,
              ROWS: tl.constexpr, BLOCK_D: tl.constexpr, WHOLE: tl.constexpr):  # fmt: skip
    """Tokens first .. first + ROWS of a head: (ROWS, BLOCK_D), zero beyond N and D. WHOLE: none is beyond N."""
    n, d = first + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    at = n[:, None] * stride_n + d[None, :] * stride_d
    if WHOLE and D == BLOCK_D:
        return tl.load(x + at)
    elif WHOLE:
        return tl.load(x + at, mask=(d < D)[None, :], other=0)
    elif D == BLOCK_D:
        return tl.load(x + at, mask=(n < N)[:, None], other=0)
    else:
        return tl.load(x + at, mask=(n < N)[:, None] & (d < D)[None, :], other=0)


@triton.jit
def store_rows(x, values, first, stride_n, N: tl.constexpr, D: tl.constexpr,
               ROWS: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """The reverse, into a tensor whose heads are contiguous."""
    n, d = first + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    at = n[:, None] * stride_n + d[None, :]
    tl.store(x + at, values.to(x.dtype.element_ty), mask=(n < N)[:, None] & (d < D)[None, :])


def tiles(N):
    """N tokens as (first, length) of tiles of 64 and then powers of two, at least 16: 197 in 64, 64, 64, 16.

    Up to 64 tokens are one tile.
    """
    if N <= 64:
        return ((0, max(16, triton.next_power_of_2(N))),)
    found, first = [], 0
    while first < N:
        left = -(N - first) // 16 * -16
        found.append((first, min(64, 1 << (left.bit_length() - 1))))
        first += found[-1][1]
    return tuple(found)


def block_d(D):
    """A head's width in a tile: tensor cores multiply sixteen numbers at a time."""
    return max(16, triton.next_power_of_2(D))


def near(x, rows_dim=1):
    """x, or a copy where a head reaches beyond 32-bit offsets."""
    reach = sum((n - 1) * s for n, s in ((x.shape[d], x.stride(d)) for d in (rows_dim, -1)))
    return x if reach < 2**31 else x.contiguous()
