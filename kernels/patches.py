"""Where the pixels of a patch are in an image: what gather_patches and masked_mse share.

An image is seen as (b, c, y, x) with any strides, whether it came as float (B, C, H, W) or as uint8 (B, H, W, C). A
patch is P = p*p*C numbers in the order (y, x, c):

* interleaved (uint8 NHWC, channels_last): a line of a patch is one run of p*C numbers, loaded 16 bytes at a time;
* planar (NCHW and every other stride): a warp loads 32 neighbours of a patch, one number a thread, from C runs at
  once; the cache makes whole lines of it. (tl.gather of 16-byte loads compiles to 512 shuffles a patch: slower.)
"""

import torch
import triton
import triton.language as tl


def image_layout(imgs, patch_size, mean, std):
    """imgs: float (B, C, H, W) or uint8 (B, H, W, C) -> (sizes, strides, constexprs) of the kernels that read it."""
    uint8 = imgs.dtype == torch.uint8
    b, c, y, x = (0, 3, 1, 2) if uint8 else (0, 1, 2, 3)
    stride_b, stride_c, stride_y, stride_x = (imgs.stride(d) for d in (b, c, y, x))
    C, H, W, p = imgs.shape[c], imgs.shape[y], imgs.shape[x], patch_size
    sizes = {"num_patches": (H // p) * (W // p), "patches_per_line": W // p}
    strides = {"stride_b": stride_b, "stride_c": stride_c, "stride_y": stride_y, "stride_x": stride_x}
    reach = (C - 1) * stride_c + (p - 1) * (stride_y + stride_x)
    constexprs = {
        "PATCH": p,
        "CHANNELS": C,
        # (x / 255 - mean) / std as one multiply-add; known when compiling, so that no tensor of constants is needed
        "SCALE": tuple(1 / (255 * s) for s in std) if uint8 else (),
        "SHIFT": tuple(-m / s for m, s in zip(mean, std, strict=True)) if uint8 else (),
        "INTERLEAVED": stride_x == C and (stride_c == 1 or C == 1),
        "WIDE": reach >= 2**31,  # offsets inside a patch take 64 bits only when they must: registers
        "BLOCK_P": triton.next_power_of_2(p * p * C),
    }
    return sizes, strides, constexprs


@triton.jit
def by_channel(channel, VALUES: tl.constexpr):
    """VALUES[channel] for a tensor of channels."""
    out = tl.full(channel.shape, VALUES[0], tl.float32)
    for c in tl.static_range(1, len(VALUES)):
        out = tl.where(channel == c, VALUES[c], out)
    return out


@triton.jit
def pixel_offsets(stride_c, stride_y, stride_x, PATCH: tl.constexpr, CHANNELS: tl.constexpr,
                  INTERLEAVED: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr):  # fmt: skip
    """Offsets (BLOCK_P,) of a patch's numbers, in patch order, from its corner."""
    i = tl.arange(0, BLOCK_P)
    if WIDE:
        i = i.to(tl.int64)
    line = i // (PATCH * CHANNELS) * stride_y
    if INTERLEAVED:  # not x * stride_x + c: that way the compiler sees p*C numbers side by side
        return line + i % (PATCH * CHANNELS)
    return line + i // CHANNELS % PATCH * stride_x + i % CHANNELS * stride_c


@triton.jit
def patch_corner(image, id, patches_per_line, stride_b, stride_y, stride_x, PATCH: tl.constexpr):
    """Offset of a patch's first pixel, in 64 bits: a batch passes 2**31 numbers long before memory is full."""
    id = id.to(tl.int32)  # 64-bit division is slow
    line, column = (id // patches_per_line).to(tl.int64), (id % patches_per_line).to(tl.int64)
    return image.to(tl.int64) * stride_b + line * PATCH * stride_y + column * PATCH * stride_x


@triton.jit
def read_patches(imgs, image, id, num_patches, patches_per_line, stride_b, stride_c, stride_y, stride_x,
                 PATCH: tl.constexpr, CHANNELS: tl.constexpr, SCALE: tl.constexpr, SHIFT: tl.constexpr,
                 INTERLEAVED: tl.constexpr, WIDE: tl.constexpr, BLOCK_P: tl.constexpr):  # fmt: skip
    """Patches id (rows,) of images image (rows,), normalised: (rows, BLOCK_P) in patch order, float32 or float64.

    Columns beyond P hold anything. An id outside 0..num_patches-1 reads nothing and gives NaN.
    """
    inside = (id >= 0) & (id < num_patches)
    corner = patch_corner(image, tl.where(inside, id, 0), patches_per_line, stride_b, stride_y, stride_x, PATCH)
    offsets = pixel_offsets(stride_c, stride_y, stride_x, PATCH, CHANNELS, INTERLEAVED, WIDE, BLOCK_P)
    i = tl.arange(0, BLOCK_P)
    wanted = inside[:, None] & (i < PATCH * PATCH * CHANNELS)[None, :]
    at = (imgs + corner)[:, None] + offsets[None, :]
    if INTERLEAVED:
        x = tl.load(at, mask=wanted, other=0)
    else:
        # Given the shape of the store that follows, a thread would load 4 or 8 neighbours one by one, and a warp touch
        # 16 lines for 128 bytes. In a shape of its own the load gives each thread one number, a warp three runs.
        x = tl.load(at.reshape(at.numel), mask=wanted.reshape(at.numel), other=0).reshape(at.shape)
    x = x.to(tl.float64 if x.dtype == tl.float64 else tl.float32)
    if len(SCALE) > 0:
        channel = i % CHANNELS
        x = x * by_channel(channel, SCALE)[None, :] + by_channel(channel, SHIFT)[None, :]
    return tl.where(inside[:, None], x, float("nan"))
