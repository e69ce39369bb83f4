"""Attention for heads that do not fit on the chip whole, and for float32: a program holds one block at a time.

Formulas and shapes as in attention.py. Forward: a program has a block of queries and walks the keys, rescaling its sums
when a larger score appears (Milakov and Gimelshein 2018, arXiv 1805.02867). Backward: one program a head, which walks
twice: queries by keys for dQ, keys by queries for dK and dV, recomputing the scores; no atomics. Bytes: as in
attention.py, and once more for each block what it walks, which comes from the cache.

float32 is multiplied in float32, without tensor cores, unless torch.backends.cuda.matmul.fp32_precision allows TF32.
"""

import torch
import triton
import triton.language as tl
from mae_fast_kernels.attention_tiles import LN_2, LOG2_E, block_d, load_rows, locate, store_rows, store_sums, sum_rows

# By bytes of a number (backward: and whether a head is wider than 64): the rows of a block held and of one walked, what
# compiles without spilling (benchmarks.aot). H100, with the backward here: 257 x 32 1.6 times as fast as cuDNN, forward
# and backward together, 197 x 64 and 65 x 80 1.35 times. Other blocks were not tried.
FORWARD = {
    2: {"ROWS": 64, "COLS": 64, "num_warps": 4, "num_stages": 2},
    4: {"ROWS": 32, "COLS": 32, "num_warps": 8, "num_stages": 2},
}
BACKWARD = {
    (2, False): {"ROWS": 64, "COLS": 32, "num_warps": 4, "num_stages": 2},
    (2, True): {"ROWS": 64, "COLS": 16, "num_warps": 4, "num_stages": 2},
    (4, False): {"ROWS": 16, "COLS": 16, "num_warps": 2, "num_stages": 1},
    (4, True): {"ROWS": 16, "COLS": 16, "num_warps": 8, "num_stages": 1},
}


@triton.jit
def _attention_blocked_fwd_kernel(
    qkv,  # (B, N, 3, H, D)
    out,  # (B, N, H*D)
    lse,  # (B, H, N), float32
    H, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) // tl.cdiv(N, ROWS)  # blocks of a head are neighbours: they read the same K and V
    first = tl.program_id(0) % tl.cdiv(N, ROWS) * ROWS
    _, _, qkv, k_head, v_head, out, lse = locate(qkv, out, lse, head, H, stride_b, stride_t, stride_h, N, D)
    q = load_rows(qkv, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for key in range(0, N, COLS):
        k = load_rows(k_head, key, stride_n, stride_d, N, D, COLS, BLOCK_D, False)
        v = load_rows(v_head, key, stride_n, stride_d, N, D, COLS, BLOCK_D, False)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * (scale * LOG2_E)
        s = tl.where((key + tl.arange(0, COLS) < N)[None, :], s, float("-inf"))
        new_top = tl.maximum(top, tl.max(s, 1))
        p = tl.exp2(s - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        total = total * shrink + tl.sum(p, 1)
        acc = tl.dot(p.to(v.dtype), v, acc * shrink[:, None], input_precision=PRECISION)
        top = new_top
    store_rows(out, acc / total[:, None], first, H * D, N, D, ROWS, BLOCK_D)
    n = first + tl.arange(0, ROWS)
    tl.store(lse + n, (top + tl.log2(total)) * LN_2, mask=n < N)


@triton.jit
def _attention_blocked_bwd_kernel(
    grad,  # (B, N, H*D)
    qkv,  # (B, N, 3, H, D)
    out,  # (B, N, H*D), contiguous
    lse, delta,  # (B, H, N), float32; delta: rowsum(dO o O), written here
    grad_qkv,  # (B, N, 3, H, D), contiguous
    sums,  # (B, blocks of ROWS, 3, H, D), float32: of d(qkv) over tokens
    H, stride_gb, stride_gn, stride_gd, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    b, h, qkv, k_head, v_head, out, lse = locate(qkv, out, lse, tl.program_id(0), H, stride_b, stride_t, stride_h, N, D)
    grad += b * stride_gb + h * D * stride_gd
    grad_qkv += (b * N * 3 * H + h) * D
    sums += (b * tl.cdiv(N, ROWS) * 3 * H + h) * D
    delta += (b * H + h) * N
    for first in range(0, N, ROWS):
        q = load_rows(qkv, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        do = load_rows(grad, first, stride_gn, stride_gd, N, D, ROWS, BLOCK_D, False)
        o = load_rows(out, first, H * D, 1, N, D, ROWS, BLOCK_D, False)
        n = first + tl.arange(0, ROWS)
        d = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
        tl.store(delta + n, d, mask=n < N)
        lse_n = tl.load(lse + n, mask=n < N, other=float("inf")) * LOG2_E  # beyond N: exp2(-inf) = 0
        store_sums(sums, sum_rows(do, ROWS, BLOCK_D), H, D, BLOCK_D)
        dq = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for key in range(0, N, COLS):
            k = load_rows(k_head, key, stride_n, stride_d, N, D, COLS, BLOCK_D, False)
            v = load_rows(v_head, key, stride_n, stride_d, N, D, COLS, BLOCK_D, False)
            s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
            p = tl.exp2(s * (scale * LOG2_E) - lse_n[:, None])
            p = tl.where((key + tl.arange(0, COLS) < N)[None, :], p, 0)  # padding keys may give inf; inf * 0 = NaN
            ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - d[:, None])
            dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
        store_rows(grad_qkv, dq * scale, first, 3 * H * D, N, D, ROWS, BLOCK_D)
        column = tl.arange(0, BLOCK_D)
        tl.store(sums + column, sum_rows(dq, ROWS, BLOCK_D) * scale, mask=column < D)
        sums += 3 * H * D
    tl.debug_barrier()  # other threads read delta below

    for first in range(0, N, ROWS):
        k = load_rows(k_head, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        v = load_rows(v_head, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        dk = tl.zeros([ROWS, BLOCK_D], tl.float32)
        dv = tl.zeros([ROWS, BLOCK_D], tl.float32)
        for query in range(0, N, COLS):
            q = load_rows(qkv, query, stride_n, stride_d, N, D, COLS, BLOCK_D, False)
            do = load_rows(grad, query, stride_gn, stride_gd, N, D, COLS, BLOCK_D, False)
            n = query + tl.arange(0, COLS)
            lse_n = tl.load(lse + n, mask=n < N, other=float("inf")) * LOG2_E
            d = tl.load(delta + n, mask=n < N, other=0)
            # A padding key affects its own row of dk and dv alone, which is not stored.
            p = tl.exp2(tl.dot(k, tl.trans(q), input_precision=PRECISION) * (scale * LOG2_E) - lse_n[None, :])
            dv = tl.dot(p.to(do.dtype), do, dv, input_precision=PRECISION)
            ds = p * (tl.dot(v, tl.trans(do), input_precision=PRECISION) - d[None, :])
            dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
        store_rows(grad_qkv + H * D, dk * scale, first, 3 * H * D, N, D, ROWS, BLOCK_D)
        store_rows(grad_qkv + 2 * H * D, dv, first, 3 * H * D, N, D, ROWS, BLOCK_D)


def _constants(qkv, options):
    _, N, _, _, D = qkv.shape
    rows = min(options["ROWS"], max(16, triton.next_power_of_2(N)))
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    return options | {
        "N": N, "D": D, "BLOCK_D": block_d(D), "ROWS": rows, "COLS": min(options["COLS"], rows),
        "PRECISION": "tf32" if tf32 else "ieee",
    }  # fmt: skip


def forward(qkv, out, lse):
    """Fills out (B, N, H*D) and lse (B, H, N)."""
    B, N, _, H, D = qkv.shape
    constants = _constants(qkv, FORWARD[qkv.element_size()])
    grid = (B * H * triton.cdiv(N, constants["ROWS"]),)
    _attention_blocked_fwd_kernel[grid](qkv, out, lse, H, *qkv.stride(), D**-0.5, **constants)


def backward(grad, qkv, out, lse, grad_qkv):
    """Fills grad_qkv (B, N, 3, H, D), contiguous -> its sums over each block of tokens, (blocks, 3, H, D), float32."""
    B, N, _, H, D = qkv.shape
    constants = _constants(qkv, BACKWARD[qkv.element_size(), D > 64])
    blocks = B * triton.cdiv(N, constants["ROWS"])
    sums = torch.empty((blocks, 3, H, D), dtype=torch.float32, device=qkv.device)
    _attention_blocked_bwd_kernel[(B * H,)](
        grad, qkv, out, lse, torch.empty_like(lse), grad_qkv, sums, H, *grad.stride(), *qkv.stride(), D**-0.5,
        **constants,
    )  # fmt: skip
    return sums
