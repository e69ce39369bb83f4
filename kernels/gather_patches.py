"""Some patches of each image, normalised and cast, in one pass.

    out[b, k, (y, x, c)] = cast(normalise(imgs[b, c, line*p + y, column*p + x])),   (line, column) = patch ids[b, k]

imgs: float (B, C, H, W) or uint8 (B, H, W, C), any strides; ids: int64 (B, K); out: (B, K, P), P = p*p*C.
Bytes: B*K*P pixels read once, as many numbers written once, 8*B*K of ids. Backward: the gradient read once, an
image-shaped gradient cleared and the patches `ids` of it written.
"""

import torch
import triton
import triton.language as tl
from mae_fast_kernels.patches import image_layout, patch_corner, read_patches

# By bytes of a pixel: numbers a program handles, warps. A thread should load 16 bytes two to four times before it needs
# the first: enough in flight at 8 to 16 programs a multiprocessor. H100, Base: 50 % of the copy limit.
FORWARD = {
    1: {"NUMBERS": 4096, "num_warps": 4},
    2: {"NUMBERS": 2048, "num_warps": 4},
    4: {"NUMBERS": 2048, "num_warps": 4},
    8: {"NUMBERS": 1024, "num_warps": 4},
}
BACKWARD = {size: dict(options) for size, options in FORWARD.items()}


def _blocks(options, block_p):
    """-> (patches a program, warps) for patches of block_p numbers."""
    rows = max(1, options["NUMBERS"] // block_p)
    return rows, min(16, options["num_warps"] * max(1, rows * block_p // options["NUMBERS"]))


@triton.jit
def _gather_patches_fwd_kernel(
    imgs,  # (B, C, H, W), or uint8 (B, H, W, C)
    ids,  # (B, K)
    out,  # (B, K, P)
    rows, K, num_patches, patches_per_line,
    stride_b, stride_c, stride_y, stride_x, stride_ib, stride_ik,
    PATCH: tl.constexpr, CHANNELS: tl.constexpr,  # constants, so that // and % cost little and runs are seen
    SCALE: tl.constexpr, SHIFT: tl.constexpr, INTERLEAVED: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    b, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    id = tl.load(ids + b * stride_ib + k * stride_ik, mask=row < rows, other=-1)
    x = read_patches(imgs, b, id, num_patches, patches_per_line, stride_b, stride_c, stride_y, stride_x,
                     PATCH, CHANNELS, SCALE, SHIFT, INTERLEAVED, WIDE, BLOCK_P)  # fmt: skip
    P: tl.constexpr = PATCH * PATCH * CHANNELS
    i = tl.arange(0, BLOCK_P)
    at = row.to(tl.int64)[:, None] * P + i[None, :]
    tl.store(out + at, x.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (i < P)[None, :])


@triton.jit
def _gather_patches_bwd_kernel(
    grad,  # (B, K, P)
    ids,  # (B, K)
    grad_imgs,  # (B, C, H, W)
    rows, K, num_patches, patches_per_line,
    stride_gb, stride_gk, stride_gi, stride_ib, stride_ik, stride_b, stride_c, stride_y,
    PATCH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    b, k = (row // K).to(tl.int64), (row % K).to(tl.int64)
    id = tl.load(ids + b * stride_ib + k * stride_ik, mask=row < rows, other=-1)
    inside = (id >= 0) & (id < num_patches)
    i = tl.arange(0, BLOCK_P)
    wanted = inside[:, None] & (i < PATCH * PATCH * CHANNELS)[None, :]
    # i counts in the order of the image (c, y, x), so that the stores are whole lines; the loads meet in cache
    from_row = grad + b * stride_gb + k * stride_gk
    from_i = i % (PATCH * PATCH) * CHANNELS + i // (PATCH * PATCH)
    g = tl.load(from_row[:, None] + (from_i.to(tl.int64) * stride_gi)[None, :], mask=wanted, other=0)
    corner = patch_corner(b, tl.where(inside, id, 0), patches_per_line, stride_b, stride_y, 1, PATCH)
    to_i = i // (PATCH * PATCH) * stride_c + i // PATCH % PATCH * stride_y + i % PATCH
    tl.store((grad_imgs + corner)[:, None] + to_i[None, :], g.to(grad_imgs.dtype.element_ty), mask=wanted)


def gather_patches(imgs, ids, patch_size, mean, std, dtype):
    """imgs: float (B, C, H, W) or uint8 (B, H, W, C); ids: int64 (B, K) -> (B, K, P) of dtype."""
    sizes, strides, constexprs = image_layout(imgs, patch_size, mean, std)
    B, K = ids.shape
    out = torch.empty((B, K, patch_size**2 * constexprs["CHANNELS"]), dtype=dtype, device=imgs.device)
    if out.numel() == 0:
        return out
    block_r, warps = _blocks(FORWARD[imgs.element_size()], constexprs["BLOCK_P"])
    _gather_patches_fwd_kernel[(triton.cdiv(B * K, block_r),)](
        imgs, ids, out, B * K, K, **sizes, **strides, stride_ib=ids.stride(0), stride_ik=ids.stride(1),
        **constexprs, BLOCK_R=block_r, num_warps=warps,
    )  # fmt: skip
    return out


def gather_patches_backward(grad, ids, patch_size, size, dtype):
    """grad: (B, K, P); ids: int64 (B, K), distinct in a row -> (B, C, H, W) = size, of dtype, zero elsewhere."""
    (B, C, H, W), p, K = size, patch_size, ids.shape[1]
    grad_imgs = torch.zeros((B, C, H, W), dtype=dtype, device=grad.device)
    if grad.numel() == 0:
        return grad_imgs
    block_p = triton.next_power_of_2(p * p * C)
    block_r, warps = _blocks(BACKWARD[grad_imgs.element_size()], block_p)
    _gather_patches_bwd_kernel[(triton.cdiv(B * K, block_r),)](
        grad, ids, grad_imgs, B * K, K, (H // p) * (W // p), W // p,
        *grad.stride(), *ids.stride(), *grad_imgs.stride()[:3], p, C, block_r, block_p, num_warps=warps,
    )  # fmt: skip
    return grad_imgs
