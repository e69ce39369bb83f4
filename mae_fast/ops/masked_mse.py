"""The loss: mean squared error over masked patches, targets never materialised."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.checks import check_masked
from mae_fast.ops.library import register

# 1 / (B*K*P) underflows in float16, so the backward gets the residual and not the gradient.
define(
    "mae_fast::masked_mse",
    "(Tensor pred, Tensor imgs, Tensor ids, SymInt patch_size, float[] mean, float[] std, bool norm_pix,"
    " bool with_grad) -> (Tensor, Tensor)",
)
define("mae_fast::masked_mse_backward", "(Tensor residual, Tensor ids, Tensor grad_loss, SymInt num_rows) -> Tensor")


def _forward(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad):
    residual = reference.masked_residual(pred, imgs, ids, patch_size, mean, std, norm_pix)
    return (residual**2).mean(), residual.to(pred.dtype) if with_grad else pred.new_empty(0)


@register_fake("mae_fast::masked_mse")
def fake(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad):
    dtype = torch.float64 if torch.float64 in (pred.dtype, imgs.dtype) else torch.float32
    return pred.new_empty((), dtype=dtype), pred.new_empty((*ids.shape, pred.shape[2]) if with_grad else 0)


def _backward(residual, ids, grad_loss, num_rows):
    return rows_of((residual * (grad_loss * 2 / residual.numel()).reshape(1)).to(residual.dtype), ids, num_rows)


def rows_of(grad, ids, num_rows):
    """The gradient of the masked rows (B, K, P) -> that of pred, (B, num_rows, P): rows as they are, or as ids say."""
    if num_rows == ids.shape[1]:
        return grad
    rows = grad.new_zeros(grad.shape[0], num_rows, grad.shape[2])
    return rows.scatter_add(1, ids.unsqueeze(-1).expand_as(grad), grad)


@register_fake("mae_fast::masked_mse_backward")
def backward_fake(residual, ids, grad_loss, num_rows):
    return residual.new_empty(residual.shape[0], num_rows, residual.shape[2])


def setup(ctx, inputs, output):
    ctx.num_rows = inputs[0].shape[1]
    ctx.save_for_backward(output[1], inputs[2])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _grad(ctx, grad_loss, _):
    if grad_loss is None:
        return (None,) * 8
    residual, ids = ctx.saved_tensors
    return torch.ops.mae_fast.masked_mse_backward(residual, ids, grad_loss, ctx.num_rows), *[None] * 7


register_autograd("mae_fast::masked_mse", _grad, setup_context=setup)
register("masked_mse", _forward, triton="masked_mse")
register("masked_mse_backward", _backward, triton="masked_mse")


def masked_mse(
    pred: Tensor, imgs: Tensor, ids: Tensor, patch_size: int, mean: list[float], std: list[float], norm_pix: bool
) -> Tensor:
    """Mean squared error between predictions and image pixels over the masked patches; a float32 scalar.

    pred: (B, K, P), rows in the order of ids, or (B, L, P), rows in image order; P = patch_size**2 * C. Where every
    patch is masked (K = L) rows are in the order of ids.
    imgs: float (B, C, H, W), normalised, or uint8 (B, H, W, C), normalised here with mean and std (per channel, of 1).
    ids: int64 (B, K), the masked patches, distinct. norm_pix: each target patch to zero mean and unit (unbiased)
    variance. The gradient of pred is prepared in the same pass. Images that require a gradient themselves, for which
    pretraining has no use, take the reference. Source: He et al. 2022, section 3.
    """
    check_masked(pred, imgs, ids, patch_size, mean, std, norm_pix)
    if imgs.requires_grad:
        return reference.masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix)
    with_grad = pred.requires_grad and torch.is_grad_enabled()
    loss, _ = torch.ops.mae_fast.masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad)
    return loss
