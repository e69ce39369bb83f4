"""Linear layers whose product and bias are wanted apart, and whose backward pass does less than autograd's."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.model.precision import compute_dtype

HALVES = torch.bfloat16, torch.float16
OUT_DTYPE = {"cuda"}  # types of device whose product of 16-bit numbers can leave float32


def is_plain(module: nn.Module, cls: type) -> bool:
    """Whether the module is just what it says, nothing wrapped, hooked or compiled: its parts may be used alone."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is cls and not changed and module._compiled_call_impl is None


def _weight_grad(grad: Tensor, x: Tensor) -> Tensor:
    """grad^T x of 16-bit grad (rows, out) and x (rows, in) -> (out, in) in float32."""
    if grad.is_cuda:
        return torch.mm(grad.t(), x, out_dtype=torch.float32)
    return grad.float().t() @ x.float()


class _Linear(torch.autograd.Function):
    """F.linear of 16-bit x, float32 weight and bias, whose gradients are never rounded to 16 bits and cast back."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        need_x, need_weight, _ = ctx.needs_input_grad
        half = weight.to(x.dtype)
        ctx.save_for_backward(x if need_weight else None, half if need_x else None)
        return F.linear(x, half, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx, grad):
        (x, half), (need_x, need_weight, need_bias) = ctx.saved_tensors, ctx.needs_input_grad
        rows = grad.reshape(-1, grad.shape[-1])
        return (
            grad @ half if need_x else None,
            _weight_grad(rows, x.reshape(-1, x.shape[-1])) if need_weight else None,
            rows.sum(0, dtype=torch.float32) if need_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear in the type that products compute in: x (..., in), weight (out, in), bias (out,) -> (..., out).

    Where that is a 16-bit type and the parameters are float32, on CUDA, their gradients come in float32: that of the
    weight straight from the product, with no cast after it, that of the bias from its sum. Everywhere else, F.linear.
    """
    dtype = compute_dtype(x.device, x.dtype)
    float32 = weight.dtype == torch.float32 and (bias is None or bias.dtype == torch.float32)
    if x.device.type in OUT_DTYPE and dtype in HALVES and float32:
        return _Linear.apply(x.to(dtype), weight, bias)
    return F.linear(x, weight, bias)


def split_linear(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """-> the product and the bias apart, for the op after it to add; all of it and None where the layer is hooked."""
    return (linear(x, layer.weight), layer.bias) if is_plain(layer, nn.Linear) else (layer(x), None)


def qkv_attention(x: Tensor, qkv: nn.Linear, num_heads: int) -> Tensor:
    """The fused op on what qkv makes of x: (B, N, in) -> (B, N, out / 3).

    The gradient of qkv's bias comes from the pass of the op that forms d(qkv), not from a pass over d(qkv) after it.
    qkv is read, not called: hooks on it do not run.
    """
    fixed = None if qkv.bias is None else qkv.bias.detach()
    return ops.attention(linear(x, qkv.weight, fixed).unflatten(-1, (3, num_heads, -1)), qkv.bias)
