"""softmax(q k^T / sqrt(D)) v of every head of packed qkv, forward and backward, for MAE's short sequences.

    forward   S = Q K^T,  P = exp(scale S - lse),  O = P V                  lse: logsumexp of the scaled scores, float32
    backward  d = rowsum(dO o O),  dS = P o (dO V^T - d),  dV = P^T dO,  dQ = scale dS K,  dK = scale dS^T Q

qkv (B, N, 3, H, D), any strides -> out (B, N, H*D), lse (B, H, N). Bytes: qkv read once, out written once; backward:
qkv, dO and out read once, d(qkv) written once, packed. One program a head, no atomics. Two kernels: a head held whole
(attention_held.py); for float32, and heads too large to hold, block by block (attention_blocked.py). The backward sums
d(qkv) over tokens too, in float32: each program leaves its head's part of 3*H*D numbers an image or block, added last.
"""

import torch
from mae_fast_kernels import attention_blocked as blocked
from mae_fast_kernels import attention_held as held


def _within_32_bits(x):
    """x, or a contiguous copy where a head reaches beyond 32-bit offsets."""
    reach = sum((x.shape[d] - 1) * x.stride(d) for d in (1, -1))
    return x if reach < 2**31 else x.contiguous()


def _check(qkv):
    if qkv.shape[4] > 128 or qkv.element_size() > 4:
        raise ValueError(f"qkv: expected 16 or 32 bits, heads of at most 128; got {qkv.dtype} {tuple(qkv.shape)}")


def attention(qkv, bias=None):
    """qkv: (B, N, 3, H, D), D at most 128 -> out (B, N, H*D), lse (B, H, N) in float32. bias is autograd's alone."""
    _check(qkv)
    qkv = _within_32_bits(qkv)
    B, N, _, H, D = qkv.shape
    out = torch.empty((B, N, H * D), dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty((B, H, N), dtype=torch.float32, device=qkv.device)
    if out.numel():
        (held if held.fits(qkv) else blocked).forward(qkv, out, lse)
    return out, lse


def attention_backward(grad, qkv, out, lse):
    """grad, out: (B, N, H*D); qkv: (B, N, 3, H, D); lse: (B, H, N).

    -> d(qkv) (B, N, 3, H, D), contiguous; d(bias) (3, H, D) in float32, the sum of d(qkv) over images and tokens.
    """
    _check(qkv)
    grad, qkv, out, lse = _within_32_bits(grad), _within_32_bits(qkv), out.contiguous(), lse.contiguous()
    grad_qkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    if not grad_qkv.numel():
        return grad_qkv, torch.zeros(qkv.shape[2:], dtype=torch.float32, device=qkv.device)
    sums = (held if held.fits(qkv, backward=True) else blocked).backward(grad, qkv, out, lse, grad_qkv)
    return grad_qkv, sums.sum(0)
