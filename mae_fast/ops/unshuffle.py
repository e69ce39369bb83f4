"""The input of a decoder in image order: visible tokens, mask tokens in the holes, positions."""

import torch
from torch import Tensor
from torch.library import define, register_autograd, register_fake

from mae_fast import reference
from mae_fast.ops.checks import check_device, check_ids, describe
from mae_fast.ops.library import register

define("mae_fast::unshuffle", "(Tensor tokens, Tensor mask_token, Tensor pos_embed, Tensor ids_restore) -> Tensor")
define(
    "mae_fast::unshuffle_backward",
    "(Tensor grad, Tensor ids_restore, SymInt num_tokens, ScalarType dtype, bool need_mask, bool need_pos)"
    " -> (Tensor, Tensor, Tensor)",
)


@register_fake("mae_fast::unshuffle")
def _fake(tokens, mask_token, pos_embed, ids_restore):
    dtype = torch.promote_types(tokens.dtype, pos_embed.dtype)
    return tokens.new_empty((tokens.shape[0], 1 + ids_restore.shape[1], tokens.shape[2]), dtype=dtype)


def _backward(grad, ids_restore, num_tokens, dtype, need_mask, need_pos):
    acc = torch.promote_types(grad.dtype, torch.float32)
    shuffled = reference.take(grad[:, 1:], ids_restore.argsort(dim=1))
    kept, masked = shuffled[:, : num_tokens - 1], shuffled[:, num_tokens - 1 :]
    return (
        torch.cat([grad[:, :1], kept], dim=1).to(dtype),
        masked.sum((0, 1), dtype=acc) if need_mask else grad.new_empty(0, dtype=acc),
        grad.sum(0, dtype=acc) if need_pos else grad.new_empty((0, 0), dtype=acc),
    )


@register_fake("mae_fast::unshuffle_backward")
def _backward_fake(grad, ids_restore, num_tokens, dtype, need_mask, need_pos):
    B, N, D = grad.shape
    acc = torch.promote_types(grad.dtype, torch.float32)
    return (
        grad.new_empty((B, num_tokens, D), dtype=dtype),
        grad.new_empty(D if need_mask else 0, dtype=acc),
        grad.new_empty((N, D) if need_pos else (0, 0), dtype=acc),
    )


def _setup(ctx, inputs, output):
    tokens, mask_token, pos_embed, ids_restore = inputs
    ctx.num_tokens, ctx.dtype = tokens.shape[1], tokens.dtype
    ctx.mask_like, ctx.pos_like = (mask_token.shape, mask_token.dtype), (pos_embed.shape, pos_embed.dtype)
    ctx.save_for_backward(ids_restore)


def _grad(ctx, grad):
    _, need_mask, need_pos, _ = ctx.needs_input_grad
    grad_tokens, grad_mask, grad_pos = torch.ops.mae_fast.unshuffle_backward(
        grad, ctx.saved_tensors[0], ctx.num_tokens, ctx.dtype, need_mask, need_pos
    )
    (mask_shape, mask_dtype), (pos_shape, pos_dtype) = ctx.mask_like, ctx.pos_like
    return (
        grad_tokens,
        grad_mask.reshape(mask_shape).to(mask_dtype) if need_mask else None,
        grad_pos.reshape(pos_shape).to(pos_dtype) if need_pos else None,
        None,
    )


register_autograd("mae_fast::unshuffle", _grad, setup_context=_setup)
register("unshuffle", reference.unshuffle, triton="unshuffle")
register("unshuffle_backward", _backward, triton="unshuffle")


def unshuffle(tokens: Tensor, mask_token: Tensor, pos_embed: Tensor, ids_restore: Tensor) -> Tensor:
    """The decoder's input: mask tokens in the holes, image order, positions added: (B, 1+L, D).

    tokens: (B, 1+K, D), cls and the kept patches in shuffled order. mask_token: (1, 1, D), cast to the type of tokens.
    pos_embed: (1, 1+L, D). ids_restore: int64 (B, L) from random_masking. The result has the type of tokens +
    pos_embed, so bfloat16 tokens and float32 positions give float32. Gradients for the first three; that of mask_token
    is summed in float32, always in the same order. Source: He et al. 2022, section 3, "MAE decoder".
    """
    if ids_restore.dim() != 2 or ids_restore.dtype != torch.int64:
        raise ValueError(f"ids_restore: expected int64 (B, L); got {describe(ids_restore)}")
    B, L = ids_restore.shape
    if tokens.dim() != 3 or not tokens.is_floating_point() or tokens.shape[0] != B or not 1 <= tokens.shape[1] <= 1 + L:
        raise ValueError(f"tokens: expected float ({B}, 1..{1 + L}, D), cls and kept patches; got {describe(tokens)}")
    D = tokens.shape[2]
    if mask_token.numel() != D or not mask_token.is_floating_point():
        raise ValueError(f"mask_token: expected float (1, 1, {D}); got {describe(mask_token)}")
    if pos_embed.shape != (1, 1 + L, D) or not pos_embed.is_floating_point():
        raise ValueError(f"pos_embed: expected float (1, {1 + L}, {D}); got {describe(pos_embed)}")
    for name, x in (("mask_token", mask_token), ("pos_embed", pos_embed), ("ids_restore", ids_restore)):
        check_device(name, x, tokens, "tokens")
    check_ids("ids_restore", ids_restore, L)
    return torch.ops.mae_fast.unshuffle(tokens, mask_token, pos_embed, ids_restore)
