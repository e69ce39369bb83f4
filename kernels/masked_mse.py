"""Mean squared, smooth L1 or L1 error over the masked patches, straight from the image, with what its gradient needs.

    target[b, k] = patch ids[b, k] of image b, normalised; with norm_pix (target - mean) / sqrt(var + 1e-6), per patch
    r            = pred - target
    masked_mse         loss = mean(r**2),  slope = 2 r
    masked_smooth_l1   loss = mean(r**2 / (2 beta) where |r| < beta, else |r| - beta / 2),  slope = r / beta in -1..1
                       beta 0: loss = mean(|r|),  slope = sign(r)
    d(pred) = slope * d(loss) / (B*K*P)

pred: (B, K, P), rows in the order of ids, or (B, L, P), rows in image order; imgs as in gather_patches; var unbiased.
Bytes: masked pixels and predictions read once, r or the slope written once, in the type of pred; the backward reads it
and writes the gradient. The scale waits for the backward: 1 / (B*K*P) underflows in float16.
"""

import torch
import triton
import triton.language as tl
from mae_fast_kernels.patches import image_layout, read_patches

# Numbers a warp handles of a patch's power-of-two block; one program a patch, 1 to 16 warps. 256 is two 16-byte loads
# of float32 a thread. H100, Base: 53 % of the copy limit forward, 89 % backward.
FORWARD = {"NUMBERS_PER_WARP": 256}
BACKWARD = {"NUMBERS_PER_WARP": 256, "BLOCK_P": 4096}


def _warps(options, block_p):
    return min(16, max(1, block_p // options["NUMBERS_PER_WARP"]))


@triton.jit
def _masked_mse_fwd_kernel(
    pred,  # (B, K, P) or (B, L, P)
    imgs,  # (B, C, H, W), or uint8 (B, H, W, C)
    ids,  # (B, K)
    row_loss,  # (B*K,)
    kept,  # (B, K, P): r of masked_mse, the slope of masked_smooth_l1
    K, num_patches, patches_per_line,
    stride_pb, stride_pk, stride_pi, stride_b, stride_c, stride_y, stride_x, stride_ib, stride_ik,
    PATCH: tl.constexpr, CHANNELS: tl.constexpr,  # constants, so that // and % cost little and runs are seen
    SCALE: tl.constexpr, SHIFT: tl.constexpr, INTERLEAVED: tl.constexpr, WIDE: tl.constexpr,
    ALL_ROWS: tl.constexpr, NORM_PIX: tl.constexpr, WITH_GRAD: tl.constexpr, BLOCK_P: tl.constexpr,
    SQUARED: tl.constexpr, BETA: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) + tl.arange(0, 1)
    b, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    id = tl.load(ids + b * stride_ib + k * stride_ik)
    target = read_patches(imgs, b, id, num_patches, patches_per_line, stride_b, stride_c, stride_y, stride_x,
                          PATCH, CHANNELS, SCALE, SHIFT, INTERLEAVED, WIDE, BLOCK_P)  # fmt: skip
    target = target.to(row_loss.dtype.element_ty)  # float32, or float64 where an input is
    P: tl.constexpr = PATCH * PATCH * CHANNELS
    i = tl.arange(0, BLOCK_P)[None, :]
    if NORM_PIX:
        mean = tl.sum(tl.where(i < P, target, 0), 1, keep_dims=True) / P
        target = target - mean
        var = tl.sum(tl.where(i < P, target * target, 0), 1, keep_dims=True) / (P - 1)
        target = target * tl.rsqrt(var + 1e-6)

    pred_row = tl.where((id >= 0) & (id < num_patches), id, 0) if ALL_ROWS else k
    at = (b * stride_pb + pred_row * stride_pk)[:, None] + i.to(tl.int64) * stride_pi
    error = tl.load(pred + at, mask=i < P, other=0).to(target.dtype) - target
    if SQUARED:
        loss, slope = error * error, error
    else:
        size = tl.abs(error)
        loss, slope = size, tl.where(error > 0, 1.0, tl.where(error < 0, -1.0, 0.0))
        if BETA > 0:
            steep = size >= BETA
            loss = tl.where(steep, size - BETA / 2, error * error / (2 * BETA))
            slope = tl.where(steep, slope, error / BETA)
    tl.store(row_loss + row, tl.sum(tl.where(i < P, loss, 0), 1) / P)
    if WITH_GRAD:
        tl.store(kept + row.to(tl.int64)[:, None] * P + i, slope.to(kept.dtype.element_ty), mask=i < P)


@triton.jit
def _masked_mse_bwd_kernel(
    kept,  # (B, K, P)
    ids,  # (B, K)
    grad_loss,  # ()
    grad,  # (B, K, P) or (B, L, P)
    rows, K, num_patches,
    stride_ib, stride_ik,
    P: tl.constexpr,  # a constant, so that a row of 588 is seen to start at a multiple of 8 bytes
    ALL_ROWS: tl.constexpr, BLOCK_P: tl.constexpr,
    FACTOR: tl.constexpr,  # slope = FACTOR * kept
):  # fmt: skip
    row = tl.program_id(0)
    b, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    i = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    x = tl.load(kept + row.to(tl.int64) * P + i, mask=i < P)
    scale = tl.load(grad_loss) * FACTOR / rows / P
    to_row, wanted = row.to(tl.int64), i < P
    if ALL_ROWS:
        id = tl.load(ids + b * stride_ib + k * stride_ik)
        to_row, wanted = b * num_patches + id, wanted & (id >= 0) & (id < num_patches)
    tl.store(grad + to_row * P + i, (x.to(scale.dtype) * scale).to(grad.dtype.element_ty), mask=wanted)


def _forward(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad, squared, beta):
    sizes, strides, constexprs = image_layout(imgs, patch_size, mean, std)
    (B, K), P = ids.shape, pred.shape[2]
    dtype = torch.float64 if torch.float64 in (pred.dtype, imgs.dtype) else torch.float32
    row_loss = torch.empty(B * K, dtype=dtype, device=pred.device)
    kept = torch.empty((B, K, P) if with_grad else 0, dtype=pred.dtype, device=pred.device)
    _masked_mse_fwd_kernel[(B * K,)](
        pred, imgs, ids, row_loss, kept, K, **sizes,
        stride_pb=pred.stride(0), stride_pk=pred.stride(1), stride_pi=pred.stride(2), **strides,
        stride_ib=ids.stride(0), stride_ik=ids.stride(1), **constexprs,
        ALL_ROWS=pred.shape[1] != K, NORM_PIX=norm_pix, WITH_GRAD=with_grad, SQUARED=squared, BETA=beta,
        num_warps=_warps(FORWARD, constexprs["BLOCK_P"]),
    )  # fmt: skip
    return row_loss.mean(), kept


def _backward(kept, ids, grad_loss, num_rows, factor):
    B, K, P = kept.shape
    all_rows = num_rows != K
    grad = (torch.zeros if all_rows else torch.empty)((B, num_rows, P), dtype=kept.dtype, device=kept.device)
    block_p = min(BACKWARD["BLOCK_P"], triton.next_power_of_2(P))
    _masked_mse_bwd_kernel[(B * K, triton.cdiv(P, block_p))](
        kept, ids, grad_loss, grad, B * K, K, num_rows, *ids.stride(), P, all_rows, block_p, factor,
        num_warps=_warps(BACKWARD, block_p),
    )  # fmt: skip
    return grad


def masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad):
    """pred: (B, K or L, P); imgs: (B, C, H, W) or uint8 (B, H, W, C); ids: int64 (B, K), distinct in a row.

    -> loss, a scalar, and the residual (B, K, P) in the type of pred (nothing, unless with_grad).
    """
    return _forward(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad, True, 0.0)


def masked_smooth_l1(pred, imgs, ids, patch_size, mean, std, norm_pix, beta, with_grad):
    """The same for the smooth L1 error; in place of the residual the slope."""
    return _forward(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad, False, beta)


def masked_mse_backward(residual, ids, grad_loss, num_rows):
    """residual: (B, K, P); grad_loss: a scalar -> d(pred): (B, num_rows, P), num_rows = K or L as pred had."""
    return _backward(residual, ids, grad_loss, num_rows, 2.0)


def masked_smooth_l1_backward(slope, ids, grad_loss, num_rows):
    return _backward(slope, ids, grad_loss, num_rows, 1.0)
