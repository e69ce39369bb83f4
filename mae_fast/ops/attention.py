"""Attention on packed qkv, for sequences short enough that a head stays on the chip."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.checks import describe
from mae_fast.ops.library import register

# bias is in qkv already: no kernel reads it, autograd gives it its gradient.
define("mae_fast::attention", "(Tensor qkv, Tensor? bias=None) -> (Tensor, Tensor)")
define("mae_fast::attention_backward", "(Tensor grad, Tensor qkv, Tensor out, Tensor lse) -> (Tensor, Tensor)")


def _forward(qkv, bias=None):
    q, k, _ = qkv.float().permute(2, 0, 3, 1, 4)  # each (B, H, N, Dh)
    return reference.attention(qkv), (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).logsumexp(-1)


@register_fake("mae_fast::attention")
def _fake(qkv, bias=None):
    B, N, _, H, D = qkv.shape
    return qkv.new_empty(B, N, H * D), qkv.new_empty((B, H, N), dtype=torch.float32)


def _backward(grad, qkv, out, lse):
    """Recomputes the probabilities, since saved out and lse are rounded."""
    q, k, v = qkv.float().permute(2, 0, 3, 1, 4)
    grad = grad.float().unflatten(2, (-1, q.shape[-1])).transpose(1, 2)
    scale = q.shape[-1] ** -0.5
    probs = (q @ k.transpose(-2, -1) * scale).softmax(-1)
    grad_probs = grad @ v.transpose(-2, -1)
    grad_scores = probs * (grad_probs - (probs * grad_probs).sum(-1, keepdim=True)) * scale
    grads = grad_scores @ k, grad_scores.transpose(-2, -1) @ q, probs.transpose(-2, -1) @ grad
    grads = torch.stack(grads)  # (3, B, H, N, Dh)
    return grads.permute(1, 3, 0, 2, 4).to(qkv.dtype).contiguous(), grads.sum((1, 3))


@register_fake("mae_fast::attention_backward")
def _backward_fake(grad, qkv, out, lse):
    return qkv.new_empty(qkv.shape), qkv.new_empty(qkv.shape[2:], dtype=torch.float32)


def _setup(ctx, inputs, output):
    qkv, bias = inputs
    ctx.save_for_backward(qkv, *output)
    ctx.bias_like = None if bias is None else (bias.shape, bias.dtype)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _grad(ctx, grad, _):
    if grad is None:
        return None, None
    grad_qkv, grad_bias = torch.ops.mae_fast.attention_backward(grad, *ctx.saved_tensors)
    if ctx.bias_like is None or not ctx.needs_input_grad[1]:
        return grad_qkv, None
    shape, dtype = ctx.bias_like
    return grad_qkv, grad_bias.reshape(shape).to(dtype)


register_autograd("mae_fast::attention", _grad, setup_context=_setup)
register("attention", _forward, "attention")
register("attention_backward", _backward, "attention")


def attention(qkv: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v of every head: packed qkv (B, N, 3, H, Dh) -> (B, N, H*Dh).

    qkv: float32, bfloat16 or float16, as a linear layer of 3*H*Dh outputs leaves it, N at least 1. float64, and on CUDA
    heads wider than 128, take the reference. Made for N up to 512 (CPU: 1024) and Dh of 16 to 128: a head's keys and
    values stay on the chip, or walk by in blocks; longer sequences run too, but general kernels are made for them. The
    forward keeps one number a row for the backward, the logsumexp of the scores, in float32. float32 is multiplied as
    such on CUDA, unless torch.backends.cuda.matmul allows TF32. Source: Vaswani et al. 2017, eq. 1.

    bias: 3*H*Dh numbers that were added to qkv already, by a linear layer that was given them detached. Named here they
    get their gradient from the pass that forms d(qkv), in float32, which a linear layer would sum d(qkv) once more for.
    """
    if qkv.dim() != 5 or qkv.shape[2] != 3 or not qkv.is_floating_point() or not qkv.shape[1] or not qkv.shape[4]:
        raise ValueError(f"qkv: expected float (B, N, 3, H, Dh) with N and Dh at least 1; got {describe(qkv)}")
    if bias is not None and (not bias.is_floating_point() or bias.numel() != qkv.shape[2:].numel()):
        raise ValueError(f"bias: expected 3*H*Dh floats for qkv {describe(qkv)}; got {describe(bias)}")
    if qkv.dtype == torch.float64 or (qkv.is_cuda and qkv.shape[-1] > 128):
        return reference.attention(qkv, bias)
    return torch.ops.mae_fast.attention(qkv, bias)[0]
