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
    "(Tensor x, Tensor? y, Tensor? y_bias, Tensor weight, Tensor bias, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
define(
    "mae_fast::add_layer_norm_backward",
    "(Tensor? grad_sum, Tensor grad_out, Tensor sum, Tensor weight, Tensor mean, Tensor rstd, bool need_y,"
    " bool need_y_bias) -> (Tensor, Tensor, Tensor)",
)


def _forward(x, y, y_bias, weight, bias, eps, dtype):
    s, _ = reference.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype)
    out, mean, rstd = torch.native_layer_norm(s.float(), weight.shape, weight.float(), bias.float(), eps)
    return x.new_empty(0) if y is None else s, out.to(dtype), mean.flatten(), rstd.flatten()


@register_fake("mae_fast::add_layer_norm")
def _fake(x, y, y_bias, weight, bias, eps, dtype):
    rows = x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)
    return x.new_empty(0 if y is None else x.shape), x.new_empty(x.shape, dtype=dtype), rows, torch.empty_like(rows)


def _backward(grad_sum, grad_out, sum, weight, mean, rstd, need_y, need_y_bias):
    shape = (*sum.shape[:-1], 1)
    grad, *parameters = torch.ops.aten.native_layer_norm_backward(
        grad_out.float(), sum.float(), weight.shape, mean.view(shape), rstd.view(shape), weight.float(),
        torch.zeros_like(weight, dtype=torch.float32), [True] * 3,
    )  # fmt: skip
    grad = grad if grad_sum is None else grad + grad_sum
    parameters += [grad.flatten(0, -2).sum(0)] if need_y_bias else []
    return grad.to(sum.dtype), grad.to(grad_out.dtype) if need_y else grad_out.new_empty(0), torch.stack(parameters)


@register_fake("mae_fast::add_layer_norm_backward")
def _backward_fake(grad_sum, grad_out, sum, weight, mean, rstd, need_y, need_y_bias):
    parameters = weight.new_empty((3 if need_y_bias else 2, *weight.shape), dtype=torch.float32)
    return sum.new_empty(sum.shape), grad_out.new_empty(sum.shape if need_y else 0), parameters


def _setup(ctx, inputs, output):
    x, y, y_bias, weight, bias, *_ = inputs
    s, _, mean, rstd = output
    ctx.has_y, ctx.dtypes = y is not None, [v.dtype for v in (weight, bias, y_bias) if v is not None]
    ctx.save_for_backward(s if ctx.has_y else x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd, *(() if ctx.has_y else (s,)))
    ctx.set_materialize_grads(False)


def _grad(ctx, grad_sum, grad_out, *_):
    s, weight, mean, rstd = ctx.saved_tensors
    need_bias = len(ctx.dtypes) == 3
    if grad_out is None:  # only the sum was used
        grad_bias = grad_sum.flatten(0, -2).sum(0, dtype=torch.float32).to(ctx.dtypes[2]) if need_bias else None
        return grad_sum, grad_sum if ctx.has_y else None, grad_bias, *[None] * 4
    one = s.dtype == grad_out.dtype  # then x and y have one gradient, written once
    grad_x, grad_y, parameters = torch.ops.mae_fast.add_layer_norm_backward(
        grad_sum if ctx.has_y else None, grad_out, s, weight, mean, rstd, ctx.has_y and not one, need_bias
    )
    parameters = [grad.to(dtype) for grad, dtype in zip(parameters.unbind(), ctx.dtypes, strict=True)]
    grad_y = (grad_x if one else grad_y) if ctx.has_y else None
    return grad_x, grad_y, parameters[2] if need_bias else None, *parameters[:2], None, None


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
) -> tuple[Tensor, Tensor]:
    """A residual connection and the norm that follows: -> s = x + y + y_bias (x itself without y), LayerNorm(s).

    x: float (..., D), the residual stream. y: as x, the output of a branch whose last linear layer left its bias out,
    or None; y_bias: float (D,), that bias, or None. weight, bias: float (D,). dtype: of the norm, what the product that
    follows computes in. Sums and statistics in float32, and the backward leaves all gradients in the same pass, those
    of (D,) summed in float32. The kernels take x, y and dtype alike, or x float32 and a narrower y of type dtype; else,
    and where none was built for the device, this is the plain expression, which torch.compile fuses.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    _check(x, y, y_bias, weight, bias)
    if (
        x.device.type not in _KERNEL_ON
        or torch.float64 in (x.dtype, dtype)
        or x.dtype not in (torch.float32, dtype)
        or (y is not None and y.dtype != dtype)
    ):
        if not torch.compiler.is_compiling():
            warn_without_kernels(x)
        return reference.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype)
    s, out, *_ = torch.ops.mae_fast.add_layer_norm(x, y, y_bias, weight, bias, eps, dtype)
    return x if y is None else s, out


def _check(x, y, y_bias, weight, bias):
    if not x.is_floating_point() or x.shape[-1:] != weight.shape or bias.shape != weight.shape:
        raise ValueError(
            f"x, weight, bias: expected float (..., D), (D,), (D,); "
            f"got {describe(x)}, {describe(weight)}, {describe(bias)}"
        )
    if y is not None and (y.shape != x.shape or not y.is_floating_point()):
        raise ValueError(f"y: expected float of the shape of x, {tuple(x.shape)}; got {describe(y)}")
    if y_bias is not None and (y is None or y_bias.shape != weight.shape or not y_bias.is_floating_point()):
        raise ValueError(f"y_bias: expected float ({len(weight)},), beside a y; got {describe(y_bias)}")
