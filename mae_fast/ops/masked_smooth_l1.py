"""The loss: smooth L1 or L1 error over masked patches, targets never materialised."""

import math

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.checks import check_masked
from mae_fast.ops.library import register
from mae_fast.ops.masked_mse import backward_fake, fake, rows_of, setup

# The backward gets the slope, -1 to 1, and not the gradient: 1 / (B*K*P) underflows in float16.
define(
    "mae_fast::masked_smooth_l1",
    "(Tensor pred, Tensor imgs, Tensor ids, SymInt patch_size, float[] mean, float[] std, bool norm_pix, float beta,"
    " bool with_grad) -> (Tensor, Tensor)",
)
define("mae_fast::masked_smooth_l1_backward", "(Tensor slope, Tensor ids, Tensor grad_loss, SymInt num_rows) -> Tensor")


def _forward(pred, imgs, ids, patch_size, mean, std, norm_pix, beta, with_grad):
    r = reference.masked_residual(pred, imgs, ids, patch_size, mean, std, norm_pix)
    loss = torch.nn.functional.smooth_l1_loss(r, torch.zeros_like(r), beta=beta)
    slope = (r / beta).clamp(-1, 1) if beta else r.sign()
    return loss, slope.to(pred.dtype) if with_grad else pred.new_empty(0)


@register_fake("mae_fast::masked_smooth_l1")
def _fake(pred, imgs, ids, patch_size, mean, std, norm_pix, beta, with_grad):
    return fake(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad)


def _backward(slope, ids, grad_loss, num_rows):
    return rows_of((slope * (grad_loss / slope.numel()).reshape(1)).to(slope.dtype), ids, num_rows)


def _grad(ctx, grad_loss, _):
    if grad_loss is None:
        return (None,) * 9
    slope, ids = ctx.saved_tensors
    return torch.ops.mae_fast.masked_smooth_l1_backward(slope, ids, grad_loss, ctx.num_rows), *[None] * 8


register_autograd("mae_fast::masked_smooth_l1", _grad, setup_context=setup)
register_fake("mae_fast::masked_smooth_l1_backward")(backward_fake)
register("masked_smooth_l1", _forward, triton="masked_mse")
register("masked_smooth_l1_backward", _backward, triton="masked_mse")


def masked_smooth_l1(
    pred: Tensor,
    imgs: Tensor,
    ids: Tensor,
    patch_size: int,
    mean: list[float],
    std: list[float],
    norm_pix: bool,
    beta: float,
) -> Tensor:
    """Smooth L1 error between predictions and image pixels over the masked patches; a float32 scalar.

    The mean of r^2 / (2 beta) where |r| < beta, else of |r| - beta / 2; with beta 0 the mean of |r|, L1. The other
    arguments, and the images that take the reference, are those of `masked_mse`.
    Source: Girshick 2015, arXiv 1504.08083, equation 3, with PyTorch's beta.
    """
    check_masked(pred, imgs, ids, patch_size, mean, std, norm_pix)
    if not 0 <= beta < math.inf:
        raise ValueError(f"beta: expected at least 0, where the error goes over from squares to sizes; got {beta}")
    if imgs.requires_grad:
        return reference.masked_smooth_l1(pred, imgs, ids, patch_size, mean, std, norm_pix, beta)
    with_grad = pred.requires_grad and torch.is_grad_enabled()
    loss, _ = torch.ops.mae_fast.masked_smooth_l1(pred, imgs, ids, patch_size, mean, std, norm_pix, beta, with_grad)
    return loss
