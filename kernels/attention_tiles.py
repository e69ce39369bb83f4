"""Where a head is in packed qkv (B, N, 3, H, D), and the tiles its tokens are cut into: what attention kernels share.

A program has one head of one image: base pointers in 64 bits, offsets inside the head in 32. Tokens and widths are
constants of a kernel (a model has two or three N), so whole tiles are read and written without a mask.
"""

from functools import cache

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)  # exp(x) = exp2(x * LOG2_E): exp2 is the instruction a GPU has
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def locate(qkv, out, lse, head, H, stride_b, stride_t, stride_h, N: tl.constexpr, D: tl.constexpr):
    """Pointers to a head, counted over all images: to its q, k and v, its part of out (B, N, H*D) and of lse (B, H, N).

    -> b, h, q, k, v, out, lse
    """
    b, h = (head // H).to(tl.int64), (head % H).to(tl.int64)
    q = qkv + b * stride_b + h * stride_h
    k = q + stride_t
    v = k + stride_t  # not q + 2 * stride_t, which 32 bits may not hold
    return b, h, q, k, v, out + (b * N * H + h) * D, lse + (b * H + h) * N


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
def load_tiles(x, stride_n, stride_d, N: tl.constexpr, D: tl.constexpr, TILES: tl.constexpr, BLOCK_D: tl.constexpr):
    """All tokens of a head, in TILES of (first, rows): a tuple of (rows, BLOCK_D)."""
    found = ()
    for i in tl.static_range(len(TILES)):
        found += (load_rows(x, TILES[i][0], stride_n, stride_d, N, D, TILES[i][1], BLOCK_D, i + 1 < len(TILES)),)
    return found


@triton.jit
def store_rows(x, values, first, stride_n, N: tl.constexpr, D: tl.constexpr,
               ROWS: tl.constexpr, BLOCK_D: tl.constexpr):  # fmt: skip
    """The reverse, into a tensor whose heads are contiguous."""
    n, d = first + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    at = n[:, None] * stride_n + d[None, :]
    tl.store(x + at, values.to(x.dtype.element_ty), mask=(n < N)[:, None] & (d < D)[None, :])


@triton.jit
def sum_rows(x, ROWS: tl.constexpr, BLOCK_D: tl.constexpr):
    """x (ROWS, BLOCK_D) -> its sum over rows, in float32."""
    x = x.to(tl.float32)
    if BLOCK_D <= 32:
        return tl.sum(x, 0)
    return tl.sum(tl.sum(tl.reshape(x, (4, ROWS // 4, BLOCK_D)), 0), 0)  # at once it spills on 10.0, a row a thread


@triton.jit
def sum_tiles(x, TILES: tl.constexpr, BLOCK_D: tl.constexpr):
    """The same of a tuple of tiles. Those as long as the first are added up before threads exchange anything."""
    whole = x[0].to(tl.float32)
    rest = tl.zeros([BLOCK_D], tl.float32)
    for i in tl.static_range(1, len(TILES)):
        if TILES[i][1] == TILES[0][1]:
            whole += x[i].to(tl.float32)
        else:
            rest += tl.sum(x[i].to(tl.float32), 0)
    return tl.sum(whole, 0) + rest


@triton.jit
def store_sums(sums, sum_v, H, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Into (3, H, D): what dK and dV of a head sum to over tokens. The sum of dQ comes last and is stored by itself.

    A row of P sums to one, so dV sums to what dO does. A row of dS sums to zero, a softmax being blind to what all its
    scores share, so dK sums to nothing. Stored where it is formed: kept for the end it would cost registers.
    """
    d = tl.arange(0, BLOCK_D)
    tl.store(sums + H * D + d, tl.zeros([BLOCK_D], tl.float32), mask=d < D)
    tl.store(sums + 2 * H * D + d, sum_v, mask=d < D)


@cache
def tiles(N, longest=64):
    """N tokens as (first, length) of tiles of 64 (longest) and then powers of two, at least 16: 197 in 64, 64, 64, 16.

    Up to 64 tokens are one tile.
    """
    if N <= 64:
        return ((0, max(16, triton.next_power_of_2(N))),)
    found, first = [], 0
    while first < N:
        left = -(N - first) // 16 * -16
        found.append((first, min(longest, 1 << (left.bit_length() - 1))))
        first += found[-1][1]
    return tuple(found)


def block_d(D):
    """A head's width in a tile: tensor cores multiply sixteen numbers at a time."""
    return max(16, triton.next_power_of_2(D))


def held_whole(qkv, table, held):
    """Constants of a launch for qkv (B, N, 3, H, D): the table's options, the tiles of what is held under that name."""
    _, N, _, _, D = qkv.shape
    options = dict(table[N > 64])
    found = {held: tiles(N, options.pop("TILE")), "ROWS": min(options["ROWS"], max(16, triton.next_power_of_2(N)))}
    return options | found | {"N": N, "D": D, "BLOCK_D": block_d(D)}
