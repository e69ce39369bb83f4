"""Bias and GELU in one pass: what follows a linear layer that left its bias out."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.builds import warn_without_kernels
from mae_fast.ops.checks import describe
from mae_fast.ops.library import register

define("mae_fast::bias_gelu", "(Tensor x, Tensor bias) -> Tensor")
define("mae_fast::bias_gelu_backward", "(Tensor grad, Tensor x, Tensor bias) -> (Tensor, Tensor)")


@register_fake("mae_fast::bias_gelu")
def _fake(x, bias):
    return x.new_empty(x.shape)


def _backward(grad, x, bias):
    u = x.float() + bias.float()
    grad_u = torch.ops.aten.gelu_backward(grad.float(), u)
    return grad_u.to(x.dtype), grad_u.sum(list(range(x.dim() - 1)))


@register_fake("mae_fast::bias_gelu_backward")
def _backward_fake(grad, x, bias):
    return x.new_empty(x.shape), bias.new_empty(bias.shape, dtype=torch.float32)


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _grad(ctx, grad):
    x, bias = ctx.saved_tensors
    grad_x, grad_bias = torch.ops.mae_fast.bias_gelu_backward(grad, x, bias)
    return grad_x, grad_bias.to(bias.dtype)


register_autograd("mae_fast::bias_gelu", _grad, setup_context=_setup)
_KERNEL_ON = register("bias_gelu", reference.bias_gelu, triton="bias_gelu")
register("bias_gelu_backward", _backward, triton="bias_gelu")


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias), the exact one, in the type of x: what follows a linear layer that left its bias out.

    x: float (..., D); bias: float (D,), added in float32. The gradient of bias comes from the same pass as that of x.
    Where no kernel was built for the device, and for float64, it is the plain expression, which torch.compile fuses.
    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    if not x.is_floating_point() or not x.dim() or bias.shape != x.shape[-1:] or not bias.is_floating_point():
        raise ValueError(f"x, bias: expected float (..., D) and float (D,); got {describe(x)} and {describe(bias)}")
    if x.dtype == torch.float64 or x.device.type not in _KERNEL_ON:
        if not torch.compiler.is_compiling():
            warn_without_kernels(x)
        return reference.bias_gelu(x, bias)
    return torch.ops.mae_fast.bias_gelu(x, bias)
