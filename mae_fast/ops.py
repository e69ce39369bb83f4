"""The fused ops, one schema each: the only file that touches torch.library.

The dispatcher chooses: Triton (kernels/) for CUDA tensors, C++ (csrc/) for CPU tensors where it was built, the
reference for everything else. Each op has its reference as default kernel, a fake implementation for torch.compile
and a backward that is an op too. The functions below check their arguments; a ValueError names the bad one.

`ops.debug = True` also checks the ids on every call, which makes a GPU wait; without it an id out of range reads and
writes nothing out of bounds and gives NaN on a GPU.

Shapes: B images, C channels, L patches, K kept or masked patches, P = p*p*C numbers of a patch, N tokens, D width,
H heads of width Dh.
"""

import warnings
from importlib import import_module

import torch
from torch import Tensor

from mae_fast import reference

debug = False

# The builds of csrc/, best first.
_BUILDS = ["_C_avx512_bf16", "_C_avx512", "_C_avx2", "_C"]


def _best_build() -> str:
    """By the instruction set PyTorch chose for itself; ATEN_CPU_CAPABILITY=avx2 or default asks for an older one."""
    best = {"AVX512": "_C_avx512", "AVX2": "_C_avx2"}.get(torch.backends.cpu.get_cpu_capability(), "_C")
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "_C_avx512_bf16" if best == "_C_avx512" and bf16() else best


def _load_cpu_kernels() -> None:
    """Register the C++ kernels of the best build this machine can run with the dispatcher."""
    for name in _BUILDS[_BUILDS.index(_best_build()) :]:
        try:
            import_module(f"mae_fast.{name}")
            return
        except ImportError as error:
            reason = error
    warnings.warn(
        f"mae_fast's C++ kernels are not built ({reason}); CPU tensors take the slower PyTorch reference. "
        "To build them: pip install --no-build-isolation -e . (needs a C++20 compiler)",
        stacklevel=3,
    )


_load_cpu_kernels()


def backends() -> dict[str, dict[str, str]]:
    """Which implementation each op runs on each device, asked of the dispatcher: {op: {"cpu": ..., "cuda": ...}}."""
    kernels = {"cpu": ("CPU", "cpp"), "cuda": ("CUDA", "triton")}
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return {
        op: {device: name if has(f"mae_fast::{op}", key) else "reference" for device, (key, name) in kernels.items()}
        for op in REFERENCE
    }


# ---- checks ----


def _is(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"


def image_shape(imgs: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of float (B, C, H, W) or uint8 (B, H, W, C) images; anything else raises a ValueError."""
    if imgs.dim() != 4 or not (imgs.dtype == torch.uint8 or imgs.is_floating_point()):
        raise ValueError(f"imgs: expected float (B, C, H, W), normalised, or uint8 (B, H, W, C); got {_is(imgs)}")
    _, *rest = imgs.shape
    return (rest[2], rest[0], rest[1]) if imgs.dtype == torch.uint8 else tuple(rest)


def _check_patches(imgs: Tensor, ids: Tensor, patch_size: int, mean, std) -> tuple[int, int]:
    """-> (L, P) of images and the ids of some of their patches."""
    C, height, width = image_shape(imgs)
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size: {height} x {width} pixels are not whole patches of {patch_size}; imgs {_is(imgs)}"
        )
    if imgs.dtype == torch.uint8 and (len(mean) != C or len(std) != C):
        raise ValueError(
            f"mean, std: expected {C} numbers each, one a channel; got {len(mean)} and {len(std)}; imgs {_is(imgs)}"
        )
    L = (height // patch_size) * (width // patch_size)
    if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[0] != imgs.shape[0] or ids.shape[1] > L:
        raise ValueError(
            f"ids: expected int64 ({imgs.shape[0]}, 0..{L}), distinct patches of each image; got {_is(ids)}"
        )
    _check_device("ids", ids, imgs, "imgs")
    _check_ids("ids", ids, L)
    return L, patch_size**2 * C


def _check_device(name: str, x: Tensor, other: Tensor, other_name: str) -> None:
    if x.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}; got {_is(x)}")


def _check_ids(name: str, ids: Tensor, L: int) -> None:
    if debug and ids.numel():
        ordered = ids.sort(dim=1).values
        if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= L or (ordered.diff(dim=1) == 0).any():
            raise ValueError(f"{name}: expected distinct numbers in 0..{L - 1} in each row; got {_is(ids)}: {ids}")


# ---- random_masking ----

torch.library.define("mae_fast::random_masking", "(Tensor noise, SymInt len_keep) -> (Tensor, Tensor, Tensor)")


@torch.library.register_fake("mae_fast::random_masking")
def _random_masking_fake(noise, len_keep):
    ids = noise.new_empty(noise.shape, dtype=torch.int64)
    return ids, torch.empty_like(ids), noise.new_empty(noise.shape, dtype=torch.float32)


def random_masking(noise: Tensor, len_keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the len_keep patches of lowest noise: -> ids_shuffle, ids_restore (int64) and mask (float32), each (B, L).

    noise: float (B, L). ids_shuffle lists the patches by noise, ties by index; ids_restore is its inverse; mask is 1
    where a patch is removed. No gradient. Source: He et al. 2022, section 3, "Simple implementation".
    """
    if noise.dim() != 2 or not noise.is_floating_point():
        raise ValueError(f"noise: expected float (B, L); got {_is(noise)}")
    if not 0 <= len_keep <= noise.shape[1]:
        raise ValueError(f"len_keep: expected 0..{noise.shape[1]}, of the patches of noise; got {len_keep}")
    return torch.ops.mae_fast.random_masking(noise.detach(), len_keep)


# ---- gather_patches ----

torch.library.define(
    "mae_fast::gather_patches",
    "(Tensor imgs, Tensor ids, SymInt patch_size, float[] mean, float[] std, ScalarType dtype) -> Tensor",
)
torch.library.define(
    "mae_fast::gather_patches_backward",
    "(Tensor grad, Tensor ids, SymInt patch_size, SymInt[] size, ScalarType dtype) -> Tensor",
)


@torch.library.register_fake("mae_fast::gather_patches")
def _gather_patches_fake(imgs, ids, patch_size, mean, std, dtype):
    return imgs.new_empty((*ids.shape, patch_size**2 * image_shape(imgs)[0]), dtype=dtype)


def _gather_patches_backward(grad, ids, patch_size, size, dtype):
    grid = size[2] // patch_size, size[3] // patch_size
    patches = grad.new_zeros(size[0], grid[0] * grid[1], grad.shape[2])
    patches = patches.scatter_add(1, ids.unsqueeze(-1).expand_as(grad), grad)
    return reference.unpatchify(patches, patch_size, grid).to(dtype)


@torch.library.register_fake("mae_fast::gather_patches_backward")
def _gather_patches_backward_fake(grad, ids, patch_size, size, dtype):
    return grad.new_empty(size, dtype=dtype)


def _gather_patches_setup(ctx, inputs, output):
    imgs, ids, ctx.patch_size, *_ = inputs
    ctx.size, ctx.dtype = imgs.shape, imgs.dtype
    ctx.save_for_backward(ids)


def _gather_patches_grad(ctx, grad):
    grad_imgs = torch.ops.mae_fast.gather_patches_backward(
        grad, ctx.saved_tensors[0], ctx.patch_size, ctx.size, ctx.dtype
    )
    return grad_imgs, *[None] * 5


torch.library.register_autograd("mae_fast::gather_patches", _gather_patches_grad, setup_context=_gather_patches_setup)


def gather_patches(
    imgs: Tensor, ids: Tensor, patch_size: int, mean: list[float], std: list[float], dtype: torch.dtype
) -> Tensor:
    """The wanted patches, normalised and cast to dtype, pixels in the order (row, column, channel): (B, K, P).

    imgs: float (B, C, H, W), already normalised, or uint8 (B, H, W, C), normalised here with mean and std (per channel,
    of 1); any strides. ids: int64 (B, K), the patches of each image, distinct; K may be 0. dtype: what the product that
    follows computes in. Float images may require a gradient. Source: He et al. 2022, section 3, "MAE encoder".
    """
    _check_patches(imgs, ids, patch_size, mean, std)
    if not dtype.is_floating_point:
        raise ValueError(f"dtype: expected a floating point type; got {dtype}")
    return torch.ops.mae_fast.gather_patches(imgs, ids, patch_size, mean, std, dtype)


# ---- unshuffle ----

torch.library.define(
    "mae_fast::unshuffle", "(Tensor tokens, Tensor mask_token, Tensor pos_embed, Tensor ids_restore) -> Tensor"
)
torch.library.define(
    "mae_fast::unshuffle_backward",
    "(Tensor grad, Tensor ids_restore, SymInt num_tokens, ScalarType dtype, bool need_mask, bool need_pos)"
    " -> (Tensor, Tensor, Tensor)",
)


@torch.library.register_fake("mae_fast::unshuffle")
def _unshuffle_fake(tokens, mask_token, pos_embed, ids_restore):
    dtype = torch.promote_types(tokens.dtype, pos_embed.dtype)
    return tokens.new_empty((tokens.shape[0], 1 + ids_restore.shape[1], tokens.shape[2]), dtype=dtype)


def _unshuffle_backward(grad, ids_restore, num_tokens, dtype, need_mask, need_pos):
    acc = torch.promote_types(grad.dtype, torch.float32)
    shuffled = reference.take(grad[:, 1:], ids_restore.argsort(dim=1))
    kept, masked = shuffled[:, : num_tokens - 1], shuffled[:, num_tokens - 1 :]
    return (
        torch.cat([grad[:, :1], kept], dim=1).to(dtype),
        masked.sum((0, 1), dtype=acc) if need_mask else grad.new_empty(0, dtype=acc),
        grad.sum(0, dtype=acc) if need_pos else grad.new_empty((0, 0), dtype=acc),
    )


@torch.library.register_fake("mae_fast::unshuffle_backward")
def _unshuffle_backward_fake(grad, ids_restore, num_tokens, dtype, need_mask, need_pos):
    B, N, D = grad.shape
    acc = torch.promote_types(grad.dtype, torch.float32)
    return (
        grad.new_empty((B, num_tokens, D), dtype=dtype),
        grad.new_empty(D if need_mask else 0, dtype=acc),
        grad.new_empty((N, D) if need_pos else (0, 0), dtype=acc),
    )


def _unshuffle_setup(ctx, inputs, output):
    tokens, mask_token, pos_embed, ids_restore = inputs
    ctx.num_tokens, ctx.dtype = tokens.shape[1], tokens.dtype
    ctx.mask_like, ctx.pos_like = (mask_token.shape, mask_token.dtype), (pos_embed.shape, pos_embed.dtype)
    ctx.save_for_backward(ids_restore)


def _unshuffle_grad(ctx, grad):
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


torch.library.register_autograd("mae_fast::unshuffle", _unshuffle_grad, setup_context=_unshuffle_setup)


def unshuffle(tokens: Tensor, mask_token: Tensor, pos_embed: Tensor, ids_restore: Tensor) -> Tensor:
    """The decoder's input: mask tokens in the holes, image order, positions added: (B, 1+L, D).

    tokens: (B, 1+K, D), cls and the kept patches in shuffled order. mask_token: (1, 1, D), cast to the type of tokens.
    pos_embed: (1, 1+L, D). ids_restore: int64 (B, L) from random_masking. The result has the type of tokens +
    pos_embed, so bfloat16 tokens and float32 positions give float32. Gradients for the first three; that of mask_token
    is summed in float32, always in the same order. Source: He et al. 2022, section 3, "MAE decoder".
    """
    if ids_restore.dim() != 2 or ids_restore.dtype != torch.int64:
        raise ValueError(f"ids_restore: expected int64 (B, L); got {_is(ids_restore)}")
    B, L = ids_restore.shape
    if tokens.dim() != 3 or not tokens.is_floating_point() or tokens.shape[0] != B or not 1 <= tokens.shape[1] <= 1 + L:
        raise ValueError(f"tokens: expected float ({B}, 1..{1 + L}, D), cls and kept patches; got {_is(tokens)}")
    D = tokens.shape[2]
    if mask_token.numel() != D or not mask_token.is_floating_point():
        raise ValueError(f"mask_token: expected float (1, 1, {D}); got {_is(mask_token)}")
    if pos_embed.shape != (1, 1 + L, D) or not pos_embed.is_floating_point():
        raise ValueError(f"pos_embed: expected float (1, {1 + L}, {D}); got {_is(pos_embed)}")
    for name, x in (("mask_token", mask_token), ("pos_embed", pos_embed), ("ids_restore", ids_restore)):
        _check_device(name, x, tokens, "tokens")
    _check_ids("ids_restore", ids_restore, L)
    return torch.ops.mae_fast.unshuffle(tokens, mask_token, pos_embed, ids_restore)


# ---- masked_mse ----

# The residual, not the gradient, goes to the backward: 1 / (B*K*P) times a loss scale of 1 is nothing in float16.
torch.library.define(
    "mae_fast::masked_mse",
    "(Tensor pred, Tensor imgs, Tensor ids, SymInt patch_size, float[] mean, float[] std, bool norm_pix,"
    " bool with_grad) -> (Tensor, Tensor)",
)
torch.library.define(
    "mae_fast::masked_mse_backward", "(Tensor residual, Tensor ids, Tensor grad_loss, SymInt num_rows) -> Tensor"
)


def _masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad):
    residual = reference.masked_residual(pred, imgs, ids, patch_size, mean, std, norm_pix)
    return (residual**2).mean(), residual.to(pred.dtype) if with_grad else pred.new_empty(0)


@torch.library.register_fake("mae_fast::masked_mse")
def _masked_mse_fake(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad):
    dtype = torch.float64 if torch.float64 in (pred.dtype, imgs.dtype) else torch.float32
    return pred.new_empty((), dtype=dtype), pred.new_empty((*ids.shape, pred.shape[2]) if with_grad else 0)


def _masked_mse_backward(residual, ids, grad_loss, num_rows):
    grad = (residual * (grad_loss * 2 / residual.numel()).reshape(1)).to(residual.dtype)
    if num_rows == ids.shape[1]:
        return grad
    rows = grad.new_zeros(grad.shape[0], num_rows, grad.shape[2])
    return rows.scatter_add(1, ids.unsqueeze(-1).expand_as(grad), grad)


@torch.library.register_fake("mae_fast::masked_mse_backward")
def _masked_mse_backward_fake(residual, ids, grad_loss, num_rows):
    return residual.new_empty(residual.shape[0], num_rows, residual.shape[2])


def _masked_mse_setup(ctx, inputs, output):
    ctx.num_rows = inputs[0].shape[1]
    ctx.save_for_backward(output[1], inputs[2])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _masked_mse_grad(ctx, grad_loss, _):
    if grad_loss is None:
        return (None,) * 8
    residual, ids = ctx.saved_tensors
    return torch.ops.mae_fast.masked_mse_backward(residual, ids, grad_loss, ctx.num_rows), *[None] * 7


torch.library.register_autograd("mae_fast::masked_mse", _masked_mse_grad, setup_context=_masked_mse_setup)


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
    L, P = _check_patches(imgs, ids, patch_size, mean, std)
    B, K = ids.shape
    if B == 0 or K == 0:
        raise ValueError(f"ids: expected at least one masked patch, the mean over none is no number; got {_is(ids)}")
    if (
        not pred.is_floating_point()
        or pred.dim() != 3
        or pred.shape[0] != B
        or (pred.shape[1] != K and pred.shape[1] != L)
        or pred.shape[2] != P
    ):
        raise ValueError(f"pred: expected float ({B}, {K} or {L}, {P}); got {_is(pred)}")
    if norm_pix and P == 1:
        raise ValueError(f"norm_pix: the variance of a patch of one number is none; imgs {_is(imgs)}")
    _check_device("pred", pred, imgs, "imgs")
    if imgs.requires_grad:
        return reference.masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix)
    with_grad = pred.requires_grad and torch.is_grad_enabled()
    loss, _ = torch.ops.mae_fast.masked_mse(pred, imgs, ids, patch_size, mean, std, norm_pix, with_grad)
    return loss


# ---- attention ----

torch.library.define("mae_fast::attention", "(Tensor qkv) -> (Tensor, Tensor)")
torch.library.define("mae_fast::attention_backward", "(Tensor grad, Tensor qkv, Tensor out, Tensor lse) -> Tensor")


def _attention(qkv):
    q, k, _ = qkv.float().permute(2, 0, 3, 1, 4)  # each (B, H, N, Dh)
    return reference.attention(qkv), (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).logsumexp(-1)


@torch.library.register_fake("mae_fast::attention")
def _attention_fake(qkv):
    B, N, _, H, D = qkv.shape
    return qkv.new_empty(B, N, H * D), qkv.new_empty((B, H, N), dtype=torch.float32)


def _attention_backward(grad, qkv, out, lse):
    q, k, v = qkv.float().permute(2, 0, 3, 1, 4)
    grad, out = (x.float().unflatten(2, (-1, q.shape[-1])).transpose(1, 2) for x in (grad, out))
    scale = q.shape[-1] ** -0.5
    probs = (q @ k.transpose(-2, -1) * scale - lse.unsqueeze(-1)).exp()
    grad_scores = probs * (grad @ v.transpose(-2, -1) - (grad * out).sum(-1, keepdim=True)) * scale
    grads = grad_scores @ k, grad_scores.transpose(-2, -1) @ q, probs.transpose(-2, -1) @ grad
    return torch.stack(grads).permute(1, 3, 0, 2, 4).to(qkv.dtype).contiguous()


@torch.library.register_fake("mae_fast::attention_backward")
def _attention_backward_fake(grad, qkv, out, lse):
    return qkv.new_empty(qkv.shape)


def _attention_setup(ctx, inputs, output):
    ctx.save_for_backward(inputs[0], *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _attention_grad(ctx, grad, _):
    return None if grad is None else torch.ops.mae_fast.attention_backward(grad, *ctx.saved_tensors)


torch.library.register_autograd("mae_fast::attention", _attention_grad, setup_context=_attention_setup)


def attention(qkv: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v of every head: packed qkv (B, N, 3, H, Dh) -> (B, N, H*Dh).

    qkv: float32, bfloat16 or float16, as a linear layer of 3*H*Dh outputs leaves it, N at least 1; float64 takes the
    reference. Made for N up to 1024 and Dh of 16 to 128: a head's keys and values stay on the chip. The forward keeps
    one number a row for the backward, the logsumexp of the scores, in float32. Source: Vaswani et al. 2017, eq. 1.
    """
    if qkv.dim() != 5 or qkv.shape[2] != 3 or not qkv.is_floating_point() or not qkv.shape[1]:
        raise ValueError(f"qkv: expected float (B, N, 3, H, Dh) with N at least 1; got {_is(qkv)}")
    if qkv.dtype == torch.float64:
        return reference.attention(qkv)
    return torch.ops.mae_fast.attention(qkv)[0]


# ---- bias_gelu ----

torch.library.define("mae_fast::bias_gelu", "(Tensor x, Tensor bias) -> Tensor")
torch.library.define("mae_fast::bias_gelu_backward", "(Tensor grad, Tensor x, Tensor bias) -> (Tensor, Tensor)")


@torch.library.register_fake("mae_fast::bias_gelu")
def _bias_gelu_fake(x, bias):
    return x.new_empty(x.shape)


def _bias_gelu_backward(grad, x, bias):
    u = x.float() + bias.float()
    grad_u = torch.ops.aten.gelu_backward(grad.float(), u)
    return grad_u.to(x.dtype), grad_u.sum(list(range(x.dim() - 1)))


@torch.library.register_fake("mae_fast::bias_gelu_backward")
def _bias_gelu_backward_fake(grad, x, bias):
    return x.new_empty(x.shape), bias.new_empty(bias.shape, dtype=torch.float32)


def _bias_gelu_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _bias_gelu_grad(ctx, grad):
    x, bias = ctx.saved_tensors
    grad_x, grad_bias = torch.ops.mae_fast.bias_gelu_backward(grad, x, bias)
    return grad_x, grad_bias.to(bias.dtype)


torch.library.register_autograd("mae_fast::bias_gelu", _bias_gelu_grad, setup_context=_bias_gelu_setup)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias), the exact one, in the type of x: what follows a linear layer that left its bias out.

    x: float (..., D); bias: float (D,), added in float32. The gradient of bias comes from the same pass as that of x.
    Where no kernel was built for the device, and for float64, it is the plain expression, which torch.compile fuses.
    Source: Hendrycks and Gimpel 2016, arXiv 1606.08415.
    """
    if not x.is_floating_point() or not x.dim() or bias.shape != x.shape[-1:] or not bias.is_floating_point():
        raise ValueError(f"x, bias: expected float (..., D) and float (D,); got {_is(x)} and {_is(bias)}")
    if x.dtype == torch.float64 or x.device.type not in _fused_on["bias_gelu"]:
        return reference.bias_gelu(x, bias)
    return torch.ops.mae_fast.bias_gelu(x, bias)


# ---- add_layer_norm ----

torch.library.define(
    "mae_fast::add_layer_norm",
    "(Tensor x, Tensor? y, Tensor weight, Tensor bias, float eps, ScalarType dtype)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)
torch.library.define(
    "mae_fast::add_layer_norm_backward",
    "(Tensor? grad_sum, Tensor grad_out, Tensor sum, Tensor weight, Tensor mean, Tensor rstd, bool need_y)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
)


def _add_layer_norm(x, y, weight, bias, eps, dtype):
    s = x if y is None else x + y
    out, mean, rstd = torch.native_layer_norm(s.float(), weight.shape, weight.float(), bias.float(), eps)
    return x.new_empty(0) if y is None else s, out.to(dtype), mean.flatten(), rstd.flatten()


@torch.library.register_fake("mae_fast::add_layer_norm")
def _add_layer_norm_fake(x, y, weight, bias, eps, dtype):
    rows = x.new_empty(x.shape[:-1].numel(), dtype=torch.float32)
    return x.new_empty(0 if y is None else x.shape), x.new_empty(x.shape, dtype=dtype), rows, torch.empty_like(rows)


def _add_layer_norm_backward(grad_sum, grad_out, sum, weight, mean, rstd, need_y):
    shape = (*sum.shape[:-1], 1)
    grads = torch.ops.aten.native_layer_norm_backward(
        grad_out.float(), sum.float(), weight.shape, mean.view(shape), rstd.view(shape), weight.float(),
        torch.zeros_like(weight, dtype=torch.float32), [True] * 3,
    )  # fmt: skip
    grad = (grads[0] if grad_sum is None else grads[0] + grad_sum).to(sum.dtype)
    # Results of an op may not share memory, so a branch of the same type gets a copy.
    return grad, grad.to(grad_out.dtype, copy=True) if need_y else grad_out.new_empty(0), *grads[1:]


@torch.library.register_fake("mae_fast::add_layer_norm_backward")
def _add_layer_norm_backward_fake(grad_sum, grad_out, sum, weight, mean, rstd, need_y):
    parameter = weight.new_empty(weight.shape, dtype=torch.float32)
    return (
        sum.new_empty(sum.shape),
        grad_out.new_empty(sum.shape if need_y else 0),
        parameter,
        torch.empty_like(parameter),
    )


def _add_layer_norm_setup(ctx, inputs, output):
    x, y, weight, bias, *_ = inputs
    s, _, mean, rstd = output
    ctx.has_y, ctx.dtypes = y is not None, (weight.dtype, bias.dtype)
    ctx.save_for_backward(s if ctx.has_y else x, weight, mean, rstd)
    ctx.mark_non_differentiable(mean, rstd, *(() if ctx.has_y else (s,)))
    ctx.set_materialize_grads(False)


def _add_layer_norm_grad(ctx, grad_sum, grad_out, *_):
    if grad_out is None:  # only the sum was used
        return grad_sum, grad_sum if ctx.has_y else None, *[None] * 4
    grad_x, grad_y, *parameters = torch.ops.mae_fast.add_layer_norm_backward(
        grad_sum if ctx.has_y else None, grad_out, *ctx.saved_tensors, ctx.has_y
    )
    parameters = [grad.to(dtype) for grad, dtype in zip(parameters, ctx.dtypes, strict=True)]
    return grad_x, grad_y if ctx.has_y else None, *parameters, None, None


torch.library.register_autograd("mae_fast::add_layer_norm", _add_layer_norm_grad, setup_context=_add_layer_norm_setup)


def add_layer_norm(
    x: Tensor, y: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """A residual connection and the norm that follows: -> s = x + y (x itself without y), LayerNorm(s) cast to dtype.

    x: float (..., D), the residual stream. y: as x, or None. weight, bias: float (D,). dtype: what the product that
    follows computes in. Statistics in float32. The kernels take x, y and dtype alike, or x float32 and a narrower y of
    type dtype; else, and where none was built for the device, this is the plain expression, which torch.compile fuses.
    Source: Ba et al. 2016, arXiv 1607.06450.
    """
    if not x.is_floating_point() or x.shape[-1:] != weight.shape or bias.shape != weight.shape:
        raise ValueError(
            f"x, weight, bias: expected float (..., D), (D,), (D,); got {_is(x)}, {_is(weight)}, {_is(bias)}"
        )
    if y is not None and (y.shape != x.shape or not y.is_floating_point()):
        raise ValueError(f"y: expected float of the shape of x, {tuple(x.shape)}; got {_is(y)}")
    if (
        x.device.type not in _fused_on["add_layer_norm"]
        or torch.float64 in (x.dtype, dtype)
        or x.dtype not in (torch.float32, dtype)
        or (y is not None and y.dtype != dtype)
    ):
        return reference.add_layer_norm(x, y, weight, bias, eps, dtype)
    s, out, *_ = torch.ops.mae_fast.add_layer_norm(x, y, weight, bias, eps, dtype)
    return x if y is None else s, out


# ---- kernels ----

REFERENCE = {
    "random_masking": reference.random_masking,
    "gather_patches": reference.gather_patches,
    "gather_patches_backward": _gather_patches_backward,
    "unshuffle": reference.unshuffle,
    "unshuffle_backward": _unshuffle_backward,
    "masked_mse": _masked_mse,
    "masked_mse_backward": _masked_mse_backward,
    "attention": _attention,
    "attention_backward": _attention_backward,
    "bias_gelu": reference.bias_gelu,
    "bias_gelu_backward": _bias_gelu_backward,
    "add_layer_norm": _add_layer_norm,
    "add_layer_norm_backward": _add_layer_norm_backward,
}
TRITON = {}
try:
    import triton  # noqa: F401
except ImportError:
    pass  # CUDA tensors take the reference, and backends() says so
else:
    from mae_fast_kernels import gather_patches as _gather
    from mae_fast_kernels import masked_mse as _mse
    from mae_fast_kernels import random_masking as _masking
    from mae_fast_kernels import unshuffle as _unshuffle

    TRITON = {op: getattr(m, op) for m in (_masking, _gather, _unshuffle, _mse) for op in REFERENCE if hasattr(m, op)}


def _on_device(launcher):
    """Triton launches on the current device, PyTorch promises the device of the tensors."""

    def launch(x, *args):
        with torch.cuda.device(x.device):
            return launcher(x, *args)

    return launch


for _op, _kernel in REFERENCE.items():
    torch.library.impl(f"mae_fast::{_op}", "default", _kernel)
for _op, _kernel in TRITON.items():
    torch.library.impl(f"mae_fast::{_op}", "CUDA", _on_device(_kernel))

_fused_on = {op: {device for device, name in row.items() if name != "reference"} for op, row in backends().items()}
