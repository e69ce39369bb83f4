"""Every op of `mae_fast.ops` in naive PyTorch, by its name there.

Shapes in suffixes: B images, C channels, L patches, K kept or masked patches, P = p*p*C pixels of a patch,
N tokens, D width, H heads.
"""

import torch
from torch import Tensor, nn


def normalize(imgs: Tensor, mean, std) -> Tensor:
    """uint8 (B, H, W, C) in 0..255 -> normalised float32 (B, C, H, W); float (B, C, H, W) passes through."""
    if imgs.dtype != torch.uint8:
        return imgs
    mean, std = (torch.tensor(v, device=imgs.device) for v in (mean, std))
    return ((imgs.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def patchify(imgs: Tensor, patch_size: int) -> Tensor:
    """(B, C, H, W) -> (B, L, P); patches row by row, each laid out (p, q, c)."""
    B, C, height, width = imgs.shape
    p, h, w = patch_size, height // patch_size, width // patch_size
    return imgs.reshape(B, C, h, p, w, p).permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, p * p * C)


def unpatchify(patches: Tensor, patch_size: int, grid: tuple[int, int]) -> Tensor:
    """(B, L, P) -> (B, C, H, W), the inverse of `patchify`; grid is (rows, columns) of patches."""
    B, p, (h, w) = len(patches), patch_size, grid
    C = patches.shape[2] // p**2
    return patches.reshape(B, h, w, p, p, C).permute(0, 5, 1, 3, 2, 4).reshape(B, C, h * p, w * p)


def take(x_BLD: Tensor, ids_BK: Tensor) -> Tensor:
    """Row ids[b, k] of x[b], for every b and k: (B, L, D), (B, K) -> (B, K, D)."""
    return x_BLD.gather(1, ids_BK.unsqueeze(-1).expand(-1, -1, x_BLD.shape[2]))


def random_masking(noise_BL: Tensor, len_keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """-> ids_shuffle (B, L), ids_restore (B, L), mask (B, L) float32, 1 = removed. Low noise is kept, ties by index."""
    ids_shuffle = noise_BL.argsort(dim=1, stable=True)
    ids_restore = ids_shuffle.argsort(dim=1)
    return ids_shuffle, ids_restore, (ids_restore >= len_keep).float()


def gather_patches(imgs: Tensor, ids_BK: Tensor, patch_size: int, mean, std, dtype: torch.dtype) -> Tensor:
    """-> patches `ids` of each image, normalised and cast: (B, K, P)."""
    return take(patchify(normalize(imgs, mean, std), patch_size), ids_BK).to(dtype)


def unshuffle(tokens: Tensor, mask_token: Tensor, pos_embed: Tensor, ids_restore: Tensor) -> Tensor:
    """tokens (B, 1+K, D) [cls, kept] -> (B, 1+L, D): mask tokens in the holes, image order, positions added."""
    B, L = ids_restore.shape
    D = tokens.shape[2]
    masked = mask_token.reshape(1, 1, D).expand(B, 1 + L - tokens.shape[1], D)
    patches = take(torch.cat([tokens[:, 1:], masked.to(tokens.dtype)], dim=1), ids_restore)
    return torch.cat([tokens[:, :1], patches], dim=1) + pos_embed


def masked_residual(pred: Tensor, imgs: Tensor, ids_BK: Tensor, patch_size: int, mean, std, norm_pix: bool) -> Tensor:
    """Prediction minus target for the masked patches `ids`: (B, K, P). Arguments as in `masked_mse`."""
    imgs = normalize(imgs, mean, std)
    target = take(patchify(imgs, patch_size), ids_BK).to(torch.promote_types(imgs.dtype, torch.float32))
    if norm_pix:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    if pred.shape[1] != ids_BK.shape[1]:
        pred = take(pred, ids_BK)
    return pred - target


def masked_mse(pred: Tensor, imgs: Tensor, ids_BK: Tensor, patch_size: int, mean, std, norm_pix: bool) -> Tensor:
    """Mean squared error over the masked patches `ids` (paper, section 3, "Reconstruction target"); a scalar.

    pred is (B, K, P), rows in the order of ids, or (B, L, P), rows in image order.
    """
    return (masked_residual(pred, imgs, ids_BK, patch_size, mean, std, norm_pix) ** 2).mean()


def masked_smooth_l1(
    pred: Tensor, imgs: Tensor, ids_BK: Tensor, patch_size: int, mean, std, norm_pix: bool, beta: float
) -> Tensor:
    """Mean of r^2 / (2 beta) where |r| < beta, else of |r| - beta / 2; r of `masked_residual`. beta 0: of |r|."""
    residual = masked_residual(pred, imgs, ids_BK, patch_size, mean, std, norm_pix)
    return nn.functional.smooth_l1_loss(residual, torch.zeros_like(residual), beta=beta)


def attention(qkv: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) v for packed qkv (B, N, 3, H, Dh) -> (B, N, H*Dh)."""
    if bias is not None:  # 3*H*Dh numbers that qkv holds already: here they get their gradient
        qkv = qkv + (bias - bias.detach()).view(qkv.shape[2:]).to(qkv.dtype)
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, H, N, Dh)
    probs = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (probs @ v).transpose(1, 2).flatten(2)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """gelu(x + bias) in the type of x; bias (D,)."""
    return nn.functional.gelu(x + bias).to(x.dtype)


def add_layer_norm(x: Tensor, y, y_bias, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype, scale=None):
    """-> s = x + scale (y + y_bias), x itself without y, and its LayerNorm over the last dimension, cast to dtype."""
    s = x
    if y is not None:
        branch = y if y_bias is None else y + y_bias
        branch = branch if scale is None else branch * scale.view(-1, *[1] * (x.dim() - 1))
        s = (x + branch).to(torch.promote_types(x.dtype, y.dtype))
    return s, nn.functional.layer_norm(s.to(weight.dtype), weight.shape, weight, bias, eps).to(dtype)
