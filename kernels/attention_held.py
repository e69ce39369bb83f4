"""Attention with K and V of a head on the chip, backward Q and dO: formulas and shapes as in attention.py.

What is held is in tiles of 64 and then powers of two down to 16, known when compiling: the scores of 64 queries are in
registers at once, so there is one softmax, and so is dQ of the whole head, so the backward forms S once. The other side
comes in blocks of 64, wgmma's size: a last block of 16 takes more registers and shared memory. Scores computed per
score needed: N = 50 1.64, 65 2.42 (128 x 80), 197 1.37 (256 x 208), 257 1.32 (320 x 272); a head of 80 is multiplied as
128; no padding is read or written. Two heads share no scores: several a program would not fill tiles better.
"""

import torch
import triton
import triton.language as tl
from mae_fast_kernels.attention_tiles import (
    LN_2,
    LOG2_E,
    block_d,
    held_whole,
    load_rows,
    load_tiles,
    locate,
    store_rows,
    store_sums,
    sum_tiles,
    tiles,
)

# By whether a head is of several tiles: length of a tile held, rows of a block that walks by. H100, of 2, 4, 8 warps: 4
# are fastest, but for the forward at N = 50 with 12 and 16 heads, where 2 are (0.043 ms for 0.054, 0.052 for 0.096).
# Backward of 197 x 32 on 9.0, compiled, not timed: 255 registers, so two programs a multiprocessor. Three need 168 and
# spill 272 bytes, with blocks of 32 rows 56, but those multiply on the older units (mae-fast bench blocks tries them).
HELD = {"TILE": 64, "ROWS": 64, "num_warps": 4, "num_stages": 1}
FORWARD, BACKWARD = ({several: dict(HELD) for several in (False, True)} for _ in range(2))
# Registers a thread, of 4 warps, for what stays (scores, sums, results), by compute capability and up: what compiles
# without spilling beside addresses and operands (benchmarks.aot). 12.0 multiplies from registers again, as 8.0 does.
FORWARD_REGISTERS = {80: 136, 90: 152, 120: 136}
BACKWARD_REGISTERS = {80: 72, 90: 128, 120: 72}


def fits(qkv, backward=False):
    """Whether a head is held whole: 16-bit numbers, five tiles, and the registers the GPU's generation has for it."""
    (_, N, _, _, D), found, budget = qkv.shape, tiles(qkv.shape[1]), FORWARD_REGISTERS
    registers = (sum(n for _, n in found) + block_d(D)) // 2  # scores of 64 queries, their results
    if backward:
        # dK and dV of 64 keys, dQ of all queries, addresses of each tile; one tile of queries always fits
        registers = (128 + sum(n for _, n in found)) * block_d(D) // 128 + 8 * len(found) if N > 64 else 0
        budget = BACKWARD_REGISTERS
    capability = 90 if qkv.is_cpu else triton.runtime.driver.active.get_current_target().arch  # CPU: the interpreter
    held = budget[max(least for least in budget if least <= capability)]
    return qkv.element_size() == 2 and len(found) <= 5 and registers <= held


@triton.jit
def _attention_fwd_kernel(
    qkv,  # (B, N, 3, H, D)
    out,  # (B, N, H*D)
    lse,  # (B, H, N), float32
    H, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    _, _, qkv, k_head, v_head, out, lse = locate(qkv, out, lse, tl.program_id(0), H, stride_b, stride_t, stride_h, N, D)
    TILES: tl.constexpr = len(KEYS)
    k = load_tiles(k_head, stride_n, stride_d, N, D, KEYS, BLOCK_D)
    v = load_tiles(v_head, stride_n, stride_d, N, D, KEYS, BLOCK_D)

    for first in range(0, N, ROWS):
        q = load_rows(qkv, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        top = tl.full([ROWS], float("-inf"), tl.float32)
        s = ()
        for i in tl.static_range(TILES):
            x = tl.dot(q, tl.trans(k[i]))
            if i + 1 == TILES:
                x = tl.where((KEYS[i][0] + tl.arange(0, KEYS[i][1]) < N)[None, :], x, float("-inf"))
            top = tl.maximum(top, tl.max(x, 1))
            s += (x,)
        top *= scale * LOG2_E
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for i in tl.static_range(TILES):
            p = tl.exp2(s[i] * (scale * LOG2_E) - top[:, None])
            total += tl.sum(p, 1)
            acc = tl.dot(p.to(q.dtype), v[i], acc)
        store_rows(out, acc / total[:, None], first, H * D, N, D, ROWS, BLOCK_D)
        n = first + tl.arange(0, ROWS)
        tl.store(lse + n, (top + tl.log2(total)) * LN_2, mask=n < N)


@triton.jit
def _attention_bwd_kernel(
    grad,  # (B, N, H*D)
    qkv,  # (B, N, 3, H, D)
    out,  # (B, N, H*D), contiguous
    lse, delta,  # (B, H, N), float32; delta: rowsum(dO o O), written here
    grad_qkv,  # (B, N, 3, H, D), contiguous
    sums,  # (B, 3, H, D), float32: of d(qkv) over tokens
    H, stride_gb, stride_gn, stride_gd, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    b, h, qkv, k_head, v_head, out, lse = locate(qkv, out, lse, tl.program_id(0), H, stride_b, stride_t, stride_h, N, D)
    grad += b * stride_gb + h * D * stride_gd
    grad_qkv += (b * N * 3 * H + h) * D
    sums += (b * 3 * H + h) * D
    delta += (b * H + h) * N
    TILES: tl.constexpr = len(QUERIES)
    q = load_tiles(qkv, stride_n, stride_d, N, D, QUERIES, BLOCK_D)
    do = load_tiles(grad, stride_gn, stride_gd, N, D, QUERIES, BLOCK_D)
    store_sums(sums, sum_tiles(do, QUERIES, BLOCK_D), H, D, BLOCK_D)
    dq = ()
    for i in tl.static_range(TILES):
        dq += (tl.full([QUERIES[i][1], BLOCK_D], 0, tl.float32),)
        if TILES > 1:
            o = load_rows(out, QUERIES[i][0], H * D, 1, N, D, QUERIES[i][1], BLOCK_D, i + 1 < TILES)
            n = QUERIES[i][0] + tl.arange(0, QUERIES[i][1])
            tl.store(delta + n, tl.sum(do[i].to(tl.float32) * o.to(tl.float32), 1), mask=n < N)
    if TILES > 1:
        tl.debug_barrier()  # other threads read delta below

    # Keys along the rows: P^T and dS^T leave the tensor cores in the layout of an operand; only dQ transposes dS.
    for first in range(0, N, ROWS):
        k = load_rows(k_head, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        v = load_rows(v_head, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        dk = tl.zeros([ROWS, BLOCK_D], tl.float32)
        dv = tl.zeros([ROWS, BLOCK_D], tl.float32)
        next_dq = ()
        for i in tl.static_range(TILES):
            n = QUERIES[i][0] + tl.arange(0, QUERIES[i][1])
            s = tl.dot(k, tl.trans(q[i]))
            lse_i = tl.load(lse + n, mask=n < N, other=float("inf")) * LOG2_E  # beyond N: exp2(-inf) = 0
            p = tl.exp2(s * (scale * LOG2_E) - lse_i[None, :])
            p = tl.where((first + tl.arange(0, ROWS) < N)[:, None], p, 0)  # padding keys may give inf; inf * 0 = NaN
            dv = tl.dot(p.to(q[i].dtype), do[i], dv)
            dp = tl.dot(v, tl.trans(do[i]))
            # with all keys in one tile d is also rowsum(P o dO V^T), and out need not be read
            d = tl.sum(p * dp, 0) if TILES == 1 else tl.load(delta + n, mask=n < N, other=0)
            ds = (p * (dp - d[None, :])).to(q[i].dtype)
            dk = tl.dot(ds, q[i], dk)
            next_dq += (tl.dot(tl.trans(ds), k, dq[i]),)
        dq = next_dq
        store_rows(grad_qkv + H * D, dk * scale, first, 3 * H * D, N, D, ROWS, BLOCK_D)
        store_rows(grad_qkv + 2 * H * D, dv, first, 3 * H * D, N, D, ROWS, BLOCK_D)
    for i in tl.static_range(TILES):
        store_rows(grad_qkv, dq[i] * scale, QUERIES[i][0], 3 * H * D, N, D, QUERIES[i][1], BLOCK_D)
    tl.store(sums + tl.arange(0, BLOCK_D), sum_tiles(dq, QUERIES, BLOCK_D) * scale, mask=tl.arange(0, BLOCK_D) < D)


def forward(qkv, out, lse):
    """Fills out (B, N, H*D) and lse (B, H, N)."""
    B, _, _, H, D = qkv.shape
    _attention_fwd_kernel[(B * H,)](qkv, out, lse, H, *qkv.stride(), D**-0.5, **held_whole(qkv, FORWARD, "KEYS"))


def backward(grad, qkv, out, lse, grad_qkv):
    """Fills grad_qkv (B, N, 3, H, D), contiguous -> its sums over the tokens of each image, (B, 3, H, D), float32."""
    B, _, _, H, D = qkv.shape
    sums = torch.empty((B, 3, H, D), dtype=torch.float32, device=qkv.device)
    constants = held_whole(qkv, BACKWARD, "QUERIES")
    _attention_bwd_kernel[(B * H,)](
        grad, qkv, out, lse, torch.empty_like(lse), grad_qkv, sums, H, *grad.stride(), *qkv.stride(), D**-0.5,
        **constants,
    )  # fmt: skip
    return sums
