"""The visible patches of images, normalised: what the encoder embeds, and only that."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.checks import check_patches, image_shape
from mae_fast.ops.library import register

define(
    "mae_fast::gather_patches",
    "(Tensor imgs, Tensor ids, SymInt patch_size, float[] mean, float[] std, ScalarType dtype) -> Tensor",
)
define(
    "mae_fast::gather_patches_backward",
    "(Tensor grad, Tensor ids, SymInt patch_size, SymInt[] size, ScalarType dtype) -> Tensor",
)


@register_fake("mae_fast::gather_patches")
def _fake(imgs, ids, patch_size, mean, std, dtype):
    return imgs.new_empty((*ids.shape, patch_size**2 * image_shape(imgs)[0]), dtype=dtype)


def _backward(grad, ids, patch_size, size, dtype):
    grid = size[2] // patch_size, size[3] // patch_size
    patches = grad.new_zeros(size[0], grid[0] * grid[1], grad.shape[2])
    patches = patches.scatter_add(1, ids.unsqueeze(-1).expand_as(grad), grad)
    return reference.unpatchify(patches, patch_size, grid).to(dtype)


@register_fake("mae_fast::gather_patches_backward")
def _backward_fake(grad, ids, patch_size, size, dtype):
    return grad.new_empty(size, dtype=dtype)


def _setup(ctx, inputs, output):
    imgs, ids, ctx.patch_size, *_ = inputs
    ctx.size, ctx.dtype = imgs.shape, imgs.dtype
    ctx.save_for_backward(ids)


def _grad(ctx, grad):
    grad_imgs = torch.ops.mae_fast.gather_patches_backward(
        grad, ctx.saved_tensors[0], ctx.patch_size, ctx.size, ctx.dtype
    )
    return grad_imgs, *[None] * 5


register_autograd("mae_fast::gather_patches", _grad, setup_context=_setup)
register("gather_patches", reference.gather_patches, triton="gather_patches")
register("gather_patches_backward", _backward, triton="gather_patches")


def gather_patches(
    imgs: Tensor, ids: Tensor, patch_size: int, mean: list[float], std: list[float], dtype: torch.dtype
) -> Tensor:
    """Patches `ids` of each image, normalised and cast to dtype, pixels in the order (row, column, channel): (B, K, P).

    imgs: float (B, C, H, W), already normalised, or uint8 (B, H, W, C), normalised here with mean and std (per channel,
    of 1); any strides. ids: int64 (B, K), the patches of each image, distinct; K may be 0. dtype: what the product that
    follows computes in. Float images may require a gradient. Source: He et al. 2022, section 3, "MAE encoder".
    """
    check_patches(imgs, ids, patch_size, mean, std)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point type; got {dtype}")
    return torch.ops.mae_fast.gather_patches(imgs, ids, patch_size, mean, std, dtype)
