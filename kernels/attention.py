"""softmax(q k^T / sqrt(D)) v of every head of packed qkv, forward and backward, for MAE's short sequences.

    forward   S = Q K^T,  P = exp(scale S - lse),  O = P V                  lse: logsumexp of the scaled scores, float32
    backward  d = rowsum(dO o O),  dS = P o (dO V^T - d),  dV = P^T dO,  dQ = scale dS K,  dK = scale dS^T Q

qkv (B, N, 3, H, D), any strides -> out (B, N, H*D), lse (B, H, N). Bytes: qkv read once, out written once; backward:
qkv, dO and out read once, d(qkv) written once, packed. One program a head, no atomics.

Here K and V of a head stay on the chip (backward: Q and dO), in tiles of 64 and then powers of two down to 16, known
when compiling: the scores of 64 queries are in registers at once, so there is one softmax, and so is dQ of the whole
head, so the backward forms S once. The other side is walked in blocks of 64, which wgmma wants: a last block of 16 was
tried and takes more registers and shared memory. Scores computed per score needed: N = 50 1.64, 65 2.42 (128 x 80), 197
1.37 (256 x 208), 257 1.32 (320 x 272); a head of 80 is multiplied as 128; no padding is read or written. Several heads
a program would fill nothing up: two heads share no scores. float32, and heads too large for this: attention_blocked.py.
"""

import torch
import triton
import triton.language as tl
from mae_fast_kernels import attention_blocked as blocked
from mae_fast_kernels.attention_tiles import LN_2, LOG2_E, block_d, load_rows, near, store_rows, tiles

# Registers a thread, of 4 warps, for what stays (scores, sums, results), by compute capability and up: what compiles
# without spilling beside addresses and operands (benchmarks.aot). 12.0 multiplies from registers again, as 8.0 does.
# Chosen ahead of time, not yet timed on a GPU.
FORWARD_REGISTERS = {80: 136, 90: 152, 120: 136}
BACKWARD_REGISTERS = {80: 72, 90: 128, 120: 72}
OPTIONS = {"num_warps": 4, "num_stages": 1}


@triton.jit
def _attention_fwd_kernel(
    qkv, out, lse,
    H, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    qkv += b * stride_b + h * stride_h
    v_head = qkv + stride_t + stride_t  # not 2 * stride_t, which 32 bits may not hold
    out += (b * N * H + h) * D
    lse += (b * H + h) * N
    TILES: tl.constexpr = len(KEYS)
    k = ()
    v = ()
    for i in tl.static_range(TILES):
        k += (load_rows(qkv + stride_t, KEYS[i][0], stride_n, stride_d, N, D, KEYS[i][1], BLOCK_D, i + 1 < TILES),)
        v += (load_rows(v_head, KEYS[i][0], stride_n, stride_d, N, D, KEYS[i][1], BLOCK_D, i + 1 < TILES),)

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
    grad, qkv, out, lse, delta, grad_qkv,
    H, stride_gb, stride_gn, stride_gd, stride_b, stride_n, stride_t, stride_h, stride_d, scale,
    N: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr, ROWS: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    b, h = (tl.program_id(0) // H).to(tl.int64), (tl.program_id(0) % H).to(tl.int64)
    qkv += b * stride_b + h * stride_h
    v_head = qkv + stride_t + stride_t  # not 2 * stride_t, which 32 bits may not hold
    grad += b * stride_gb + h * D * stride_gd
    out += (b * N * H + h) * D
    grad_qkv += (b * N * 3 * H + h) * D
    lse += (b * H + h) * N
    delta += (b * H + h) * N
    TILES: tl.constexpr = len(QUERIES)
    q = ()
    do = ()
    dq = ()
    for i in tl.static_range(TILES):
        q += (load_rows(qkv, QUERIES[i][0], stride_n, stride_d, N, D, QUERIES[i][1], BLOCK_D, i + 1 < TILES),)
        g = load_rows(grad, QUERIES[i][0], stride_gn, stride_gd, N, D, QUERIES[i][1], BLOCK_D, i + 1 < TILES)
        do += (g,)
        dq += (tl.full([QUERIES[i][1], BLOCK_D], 0, tl.float32),)
        if TILES > 1:
            o = load_rows(out, QUERIES[i][0], H * D, 1, N, D, QUERIES[i][1], BLOCK_D, i + 1 < TILES)
            n = QUERIES[i][0] + tl.arange(0, QUERIES[i][1])
            tl.store(delta + n, tl.sum(g.to(tl.float32) * o.to(tl.float32), 1), mask=n < N)
    if TILES > 1:
        tl.debug_barrier()  # delta is read below by other threads than wrote it

    # Keys along the rows: P^T and dS^T leave the tensor cores as they go in again, only dQ turns dS round.
    for first in range(0, N, ROWS):
        k = load_rows(qkv + stride_t, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        v = load_rows(v_head, first, stride_n, stride_d, N, D, ROWS, BLOCK_D, False)
        dk = tl.zeros([ROWS, BLOCK_D], tl.float32)
        dv = tl.zeros([ROWS, BLOCK_D], tl.float32)
        key = first + tl.arange(0, ROWS)
        next_dq = ()
        for i in tl.static_range(TILES):
            n = QUERIES[i][0] + tl.arange(0, QUERIES[i][1])
            s = tl.dot(k, tl.trans(q[i]))
            lse_i = tl.load(lse + n, mask=n < N, other=float("inf")) * LOG2_E  # beyond N: exp2(-inf) = 0
            p = tl.exp2(s * (scale * LOG2_E) - lse_i[None, :])
            p = tl.where((key < N)[:, None], p, 0)  # it may be infinite there, and 0 times that no number
            dv = tl.dot(p.to(q[i].dtype), do[i], dv)
            dp = tl.dot(v, tl.trans(do[i]))
            # with all keys here d is also rowsum(P o dO V^T), and out need not be read
            d = tl.sum(p * dp, 0) if TILES == 1 else tl.load(delta + n, mask=n < N, other=0)
            ds = (p * (dp - d[None, :])).to(q[i].dtype)
            dk = tl.dot(ds, q[i], dk)
            next_dq += (tl.dot(tl.trans(ds), k, dq[i]),)
        dq = next_dq
        store_rows(grad_qkv + H * D, dk * scale, first, 3 * H * D, N, D, ROWS, BLOCK_D)
        store_rows(grad_qkv + 2 * H * D, dv, first, 3 * H * D, N, D, ROWS, BLOCK_D)
    for i in tl.static_range(TILES):
        store_rows(grad_qkv, dq[i] * scale, QUERIES[i][0], 3 * H * D, N, D, QUERIES[i][1], BLOCK_D)


def _fits(qkv, registers, budget):
    """Whether a head is held whole: 16-bit numbers, five tiles, and the registers the GPU's generation has for it."""
    capability = 90 if qkv.is_cpu else triton.runtime.driver.active.get_current_target().arch  # CPU: the interpreter
    held = budget[max(least for least in budget if least <= capability)]
    return qkv.element_size() == 2 and len(tiles(qkv.shape[1])) <= 5 and registers <= held


def _check(qkv):
    if qkv.shape[4] > 128 or qkv.element_size() > 4:
        raise ValueError(f"qkv: expected 16 or 32 bits, heads of at most 128; got {qkv.dtype} {tuple(qkv.shape)}")


def attention(qkv):
    """qkv: (B, N, 3, H, D), D at most 128 -> out (B, N, H*D), lse (B, H, N) in float32."""
    _check(qkv)
    qkv = near(qkv)
    (B, N, _, H, D), keys, block = qkv.shape, tiles(qkv.shape[1]), block_d(qkv.shape[4])
    out = torch.empty((B, N, H * D), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((B, H, N), dtype=torch.float32, device=qkv.device)
    if out.numel() == 0:
        return out, lse
    # scores of 64 queries, their results
    if _fits(qkv, (sum(n for _, n in keys) + block) // 2, FORWARD_REGISTERS):
        constants = {"N": N, "D": D, "BLOCK_D": block, "ROWS": keys[0][1], "KEYS": keys}
        _attention_fwd_kernel[(B * H,)](qkv, out, lse, H, *qkv.stride(), D**-0.5, **constants, **OPTIONS)
    else:
        blocked.forward(qkv, out, lse)
    return out, lse


def attention_backward(grad, qkv, out, lse):
    """grad, out: (B, N, H*D); qkv: (B, N, 3, H, D); lse: (B, H, N) -> d(qkv) (B, N, 3, H, D), contiguous."""
    _check(qkv)
    grad, qkv, out, lse = near(grad), near(qkv), out.contiguous(), lse.contiguous()
    (B, N, _, H, D), queries, block = qkv.shape, tiles(qkv.shape[1]), block_d(qkv.shape[4])
    grad_qkv = torch.empty((B, N, 3, H, D), dtype=qkv.dtype, device=qkv.device)
    if grad_qkv.numel() == 0:
        return grad_qkv
    # dK and dV of 64 keys, dQ of all queries, addresses of each tile; one tile of queries always fits
    registers = (128 + sum(n for _, n in queries)) * block // 128 + 8 * len(queries) if N > 64 else 0
    if _fits(qkv, registers, BACKWARD_REGISTERS):
        constants = {"N": N, "D": D, "BLOCK_D": block, "ROWS": queries[0][1], "QUERIES": queries}
        _attention_bwd_kernel[(B * H,)](
            grad, qkv, out, lse, torch.empty_like(lse), grad_qkv, H, *grad.stride(), *qkv.stride(), D**-0.5,
            **constants, **OPTIONS,
        )  # fmt: skip
    else:
        blocked.backward(grad, qkv, out, lse, grad_qkv)
    return grad_qkv
