"""A residual connection and the norm that follows it, in one pass."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.builds import warn_without_kernels
from mae_fast.ops.checks import describe
from mae_fast.ops.library import register

define(
    "mae_fast::add_layer_norm",
    "(Tensor x, Tensor? y, Tensor? y_bias, Tensor weight, Tensor bias, float eps, ScalarType dtype,"
    " Tensor? scale=None) -> (Tensor, Tensor, Tensor, Tensor)",
)
define(
    "mae_fast::add_layer_norm_backward",
    "(Tensor? grad_sum, Tensor grad_out, Tensor sum, Tensor weight, Tensor mean, Tensor rstd, bool need_y,"
    " bool need_y_bias, Tensor? scale=None) -> (Tensor, Tensor, Tensor)",
)


def _forward(x, y, y_bias, weight, bias, eps, dtype, scale=None):
    s, _ = reference.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype, scale)
    out, mean, rstd = torch.native_layer_norm(s.float(), weight.shape, weight.float(), bias.float(), eps)
    return x.new_empty(0) if y is None else s, out.to(dtype), mean.flatten(), rstd.flatten()


@register_fake("mae_fast::add_layer_norm")
def _fake(x, y, y_bias, weight, bias, eps, dtype, scale=None):
    rows = x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)
    return x.new_empty(0 if y is None else x.shape), x.new_empty(x.shape, dtype=dtype), rows, torch.empty_like(rows)


def _backward(grad_sum, grad_out, sum, weight, mean, rstd, need_y, need_y_bias, scale=None):
    shape = (*sum.shape[:-1], 1)
    grad, *parameters = torch.ops.aten.native_layer_norm_backward(
        grad_out.float(), sum.float(), weight.shape, mean.view(shape), rstd.view(shape), weight.float(),
        torch.zeros_like(weight, dtype=torch.float32), [True] * 3,
    )  # fmt: skip
    grad = grad if grad_sum is None else grad + grad_sum
    grad_y = _scaled(grad, scale)
    parameters += [grad_y.flatten(0, -2).sum(0)] if need_y_bias else []
    return grad.to(sum.dtype), grad_y.to(grad_out.dtype) if need_y else grad_out.new_empty(0), torch.stack(parameters)


def _scaled(x, scale):
    return x if scale is None else x * scale.view(-1, *[1] * (x.dim() - 1))


@register_fake("mae_fast::add_layer_norm_backward")
def _backward_fake(grad_sum, grad_out, sum, weight, mean, rstd, need_y, need_y_bias, scale=None):
    parameters = weight.new_empty((3 if need_y_bias else 2, *weight.shape), dtype=torch.float32)
    return sum.new_empty(sum.shape), grad_out.new_empty(sum.shape if need_y else 0), parameters


def _setup(ctx, inputs, output):
    x, y, y_bias, weight, bias, _, _, scale = inputs
    s, _, mean, rstd = output
    ctx.dtype_y, ctx.dtypes = None if y is None else y.dtype, [v.dtype for v in (weight, bias, y_bias) if v is not None]
    ctx.save_for_backward(x if y is None else s, weight, mean, rstd, scale)
    ctx.mark_non_differentiable(mean, rstd, *((s,) if y is None else ()))
    ctx.set_materialize_grads(False)


def _grad(ctx, grad_sum, grad_out, *_):
    s, weight, mean, rstd, scale = ctx.saved_tensors
    has_y, need_bias = ctx.dtype_y is not None, len(ctx.dtypes) == 3
    if grad_out is None:  # only the sum was used
        grad_y = _scaled(grad_sum, scale)
        grad_bias = grad_y.flatten(0, -2).sum(0, dtype=torch.float32).to(ctx.dtypes[2]) if need_bias else None
        return grad_sum, grad_y.to(ctx.dtype_y) if has_y else None, grad_bias, *[None] * 5
    one = s.dtype == grad_out.dtype and scale is None  # then x and y have one gradient, written once
    grad_x, grad_y, parameters = torch.ops.mae_fast.add_layer_norm_backward(
        grad_sum if has_y else None, grad_out, s, weight, mean, rstd, has_y and not one, need_bias, scale
    )
    parameters = [grad.to(dtype) for grad, dtype in zip(parameters.unbind(), ctx.dtypes, strict=True)]
    grad_y = (grad_x if one else grad_y) if has_y else None
    return grad_x, grad_y, parameters[2] if need_bias else None, *parameters[:2], *[None] * 3


register_autograd("mae_fast::add_layer_norm", _grad, setup_context=_setup)
_KERNEL_ON = register("add_layer_norm", _forward, triton="add_layer_norm")
register("add_layer_norm_backward", _backward, triton="add_layer_norm")


def add_layer_norm(
    x: Tensor,
    y: Tensor | None,
    y_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    dtype: torch.dtype,
    scale: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A residual connection and the norm that follows: -> s = x + scale (y + y_bias), x itself without y; LayerNorm(s).

    x: float (..., D), the residual stream. y: as x, the output of a branch whose last linear layer left its bias out,
    or None; y_bias: float (D,), that bias, or None. weight, bias: float (D,). dtype: of the norm, what the product that
    follows computes in. scale: float32 (B,) for x (B, ..., D), or float64 as x is, a factor for each image's branch, as
    drop path draws it (Huang et al. 2016); None for 1. Sums and statistics in float32, and the backward leaves all
    gradients in the same pass, those of (D,) summed in float32. The kernels take x, y and dtype alike, or x float32 and
    a narrower y of type dtype; else, for a scale that requires a gradient, and where none was built for the device,
    this is the plain expression, which torch.compile fuses.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    _check(x, y, y_bias, weight, bias, scale)
    if (
        x.device.type not in _KERNEL_ON
        or torch.float64 in (x.dtype, dtype)
        or x.dtype not in (torch.float32, dtype)
        or (y is not None and y.dtype != dtype)
        or (scale is not None and scale.requires_grad)
    ):
        if not torch.compiler.is_compiling():
            warn_without_kernels(x)
        return reference.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype, scale)
    s, out, *_ = torch.ops.mae_fast.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype, scale)
    return x if y is None else s, out


def _check(x, y, y_bias, weight, bias, scale):
    if not x.is_floating_point() or x.shape[-1:] != weight.shape or bias.shape != weight.shape:
        raise ValueError(
            f"x, weight, bias: expected float (..., D), (D,), (D,); "
            f"got {describe(x)}, {describe(weight)}, {describe(bias)}"
        )
    if y is not None and (y.shape != x.shape or not y.is_floating_point()):
        raise ValueError(f"y: expected float of the shape of x, {tuple(x.shape)}; got {describe(y)}")
    if y_bias is not None and (y is None or y_bias.shape != weight.shape or not y_bias.is_floating_point()):
        raise ValueError(f"y_bias: expected float ({len(weight)},), beside a y; got {describe(y_bias)}")
    if scale is not None and (
        y is None
        or scale.dtype != (torch.float64 if x.dtype == torch.float64 else torch.float32)
        or scale.shape != x.shape[: x.dim() > 1]
    ):
        raise ValueError(
            f"scale: expected float32 {tuple(x.shape[:1])}, beside a y and an x (B, ..., D); got {describe(scale)}"
        )
