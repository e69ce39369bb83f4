"""A residual addition and the LayerNorm after it, and in one pass of the backward all their gradients.

    s = x + scale (y + y_bias),  h = (s - mean) rstd,  out = h weight + bias   rstd = (var + eps)^-1/2, of each row of s
    g = d(out) weight,  d(s) = (g - mean(g) - h mean(g h)) rstd + gradient of s itself,  d(x) = d(s),  d(y) = scale d(s)
    column sums:  d(weight) of d(out) h,  d(bias) of d(out),  d(y_bias) of d(y)

x, y: (rows, D) -> s in the type of x, out in a type of its own; mean, rstd (rows,) in float32, as are all sums. scale:
a factor for the rows of each image, as drop path draws it, or None. Bytes: x and y read once, s and out written once;
backward: d(out), s and the gradient of s read once, d(x) written once, and d(y) once where it differs in type or scale.
Each program keeps its column sums apart; they are added in a fixed order.
"""

import torch
import triton
import triton.language as tl

# By columns of a tile, which are whole rows: rows of a tile, warps.
FORWARD = {
    512: {"ROWS": 4, "num_warps": 4},
    1024: {"ROWS": 4, "num_warps": 8},
    2048: {"ROWS": 1, "num_warps": 8},
}
# And tiles in flight, programs a multiprocessor. H100, of 18, in a bfloat16 stream, launch included: 67 % of the copy
# limit at 50,432 x 512, 40 % at 12,800 x 768. The partial sums of more programs cost more than they save.
BACKWARD = {
    512: {"ROWS": 2, "num_warps": 4, "STAGES": 3, "PROGRAMS": 3},
    1024: {"ROWS": 2, "num_warps": 8, "STAGES": 1, "PROGRAMS": 2},
}


@triton.jit
def _add_layer_norm_fwd_kernel(
    x, y,  # (rows, D)
    y_bias, weight, bias,  # (D,)
    scale,  # (B,), float32
    s, out, mean, rstd,  # (rows, D) twice, (rows,) in float32 twice
    rows, rows_each, eps,
    D: tl.constexpr, HAS_Y: tl.constexpr, HAS_Y_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row, d = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK_D)
    inside = (row < rows)[:, None] & (d < D)[None, :]
    at = row.to(tl.int64)[:, None] * D + d[None, :]
    v = tl.load(x + at, mask=inside, other=0).to(tl.float32)
    if HAS_Y:
        branch = tl.load(y + at, mask=inside, other=0).to(tl.float32)
        if HAS_Y_BIAS:
            branch += tl.load(y_bias + d, mask=d < D, other=0).to(tl.float32)[None, :]
        if HAS_SCALE:
            branch *= tl.load(scale + row // rows_each, mask=row < rows, other=0)[:, None]
        v += branch
        rounded = v.to(s.dtype.element_ty)
        tl.store(s + at, rounded, mask=inside)
        v = rounded.to(tl.float32)
    m = tl.sum(v, 1) / D
    centred = tl.where(inside, v - m[:, None], 0)
    r = 1 / tl.sqrt(tl.sum(centred * centred, 1) / D + eps)
    w = tl.load(weight + d, mask=d < D, other=0).to(tl.float32)
    b = tl.load(bias + d, mask=d < D, other=0).to(tl.float32)
    tl.store(out + at, (centred * r[:, None] * w[None, :] + b[None, :]).to(out.dtype.element_ty), mask=inside)
    tl.store(mean + row, m, mask=row < rows)
    tl.store(rstd + row, r, mask=row < rows)


@triton.jit
def _add_layer_norm_bwd_kernel(
    grad_s, grad_out, s,  # (rows, D)
    weight,  # (D,)
    mean, rstd, scale,  # (rows,) twice, (B,), float32
    grad_x, grad_y,  # (rows, D)
    sums,  # (3 or 2, programs, D), float32: of weight, bias, y_bias
    rows, rows_each,
    D: tl.constexpr, HAS_S: tl.constexpr, HAS_Y: tl.constexpr, HAS_Y_BIAS: tl.constexpr, HAS_SCALE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_D: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    d, programs = tl.arange(0, BLOCK_D), tl.num_programs(0)
    w = tl.load(weight + d, mask=d < D, other=0).to(tl.float32)[None, :]
    weight_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    bias_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    y_bias_sum = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in tl.range(tl.program_id(0) * ROWS, rows, programs * ROWS, num_stages=STAGES):
        row = first + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & (d < D)[None, :]
        at = row.to(tl.int64)[:, None] * D + d[None, :]
        g = tl.load(grad_out + at, mask=inside, other=0).to(tl.float32)
        m = tl.load(mean + row, mask=row < rows, other=0)[:, None]
        r = tl.load(rstd + row, mask=row < rows, other=0)[:, None]  # 0 beyond: d(s) is zero there
        h = tl.where(inside, (tl.load(s + at, mask=inside, other=0).to(tl.float32) - m) * r, 0)
        gw = g * w
        grad = (gw - tl.sum(gw, 1)[:, None] / D - h * (tl.sum(gw * h, 1)[:, None] / D)) * r
        if HAS_SCALE:
            factor = tl.load(scale + row // rows_each, mask=row < rows, other=0)[:, None]
        if HAS_S:
            grad += tl.load(grad_s + at, mask=inside, other=0).to(tl.float32)
        tl.store(grad_x + at, grad.to(grad_x.dtype.element_ty), mask=inside)
        if HAS_SCALE:
            grad *= factor
        if HAS_Y:
            tl.store(grad_y + at, grad.to(grad_y.dtype.element_ty), mask=inside)
        weight_sum += g * h
        bias_sum += g
        if HAS_Y_BIAS:
            y_bias_sum += grad
    at = tl.program_id(0) * D + d
    tl.store(sums + at, tl.sum(weight_sum, 0), mask=d < D)
    tl.store(sums + programs * D + at, tl.sum(bias_sum, 0), mask=d < D)
    if HAS_Y_BIAS:
        tl.store(sums + 2 * programs * D + at, tl.sum(y_bias_sum, 0), mask=d < D)


def _tile(D, table):
    """The options of the width in the table that is nearest, with as many numbers a tile."""
    block = max(16, triton.next_power_of_2(D))
    nearest = min(table, key=lambda width: abs(block - width))
    rows = max(1, min(32, table[nearest]["ROWS"] * nearest // block))
    return table[nearest] | {"BLOCK_D": block, "ROWS": rows}


def add_layer_norm(x, y, y_bias, weight, bias, eps, dtype, scale=None):
    """x: (B, ..., D), 16 or 32 bits; y: as x, or None; y_bias: (D,) or None; weight, bias: (D,); scale: (B,) or None.

    -> s as x (empty without y), out of dtype, mean and rstd of each row in float32.
    """
    x, D, has_y, has_bias = x.contiguous(), x.shape[-1], y is not None, y_bias is not None
    rows = x.numel() // max(1, D)
    s = torch.empty(x.shape if has_y else (0,), dtype=x.dtype, device=x.device)
    out = torch.empty(x.shape, dtype=dtype, device=x.device)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    if x.numel():
        tile, y, weight = _tile(D, FORWARD), y.contiguous() if has_y else x, weight.contiguous()
        factors, rows_each = (mean, 1) if scale is None else (scale.contiguous(), rows // len(scale))
        _add_layer_norm_fwd_kernel[(triton.cdiv(rows, tile["ROWS"]),)](
            x, y, y_bias.contiguous() if has_bias else weight, weight, bias.contiguous(),
            factors, s, out, mean, rstd, rows, rows_each, eps, D, has_y, has_bias, scale is not None, **tile,
        )  # fmt: skip
    return s, out, mean, rstd


def add_layer_norm_backward(grad_sum, grad_out, sum, weight, mean, rstd, need_y, need_y_bias, scale=None):
    """grad_sum: (..., D) or None; grad_out, sum: (..., D); weight: (D,); mean, rstd: (rows,); scale: (B,) or None.

    -> d(x) as sum, d(y) as grad_out (empty unless need_y), and (3, D) in float32: d(weight), d(bias), d(y_bias), the
    last only if need_y_bias.
    """
    grad_out, s, D, has_s = grad_out.contiguous(), sum.contiguous(), sum.shape[-1], grad_sum is not None
    grad_x, kinds = torch.empty_like(s), 3 if need_y_bias else 2
    grad_y = torch.empty(s.shape if need_y else (0,), dtype=grad_out.dtype, device=s.device)
    if s.numel() == 0:
        return grad_x, grad_y, torch.zeros((kinds, D), dtype=torch.float32, device=s.device)
    tile, rows = _tile(D, BACKWARD), s.numel() // D
    multiprocessors = torch.cuda.get_device_properties(s.device).multi_processor_count if s.is_cuda else 4
    programs = min(multiprocessors * tile.pop("PROGRAMS"), triton.cdiv(rows, tile["ROWS"]))
    sums = torch.empty((kinds, programs, D), dtype=torch.float32, device=s.device)
    grad_s = grad_sum.contiguous() if has_s else grad_out
    factors, rows_each = (mean, 1) if scale is None else (scale.contiguous(), rows // len(scale))
    _add_layer_norm_bwd_kernel[(programs,)](
        grad_s, grad_out, s, weight.contiguous(), mean, rstd, factors, grad_x, grad_y, sums,
        rows, rows_each, D, has_s, need_y, need_y_bias, scale is not None, **tile,
    )  # fmt: skip
    return grad_x, grad_y, sums.sum(1)
