"""The parts of a Vision Transformer: patch embedding, attention, MLP and block, on the fused ops."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast import ops


def is_plain(module: nn.Module, cls: type) -> bool:
    """Whether the module is just what it says, nothing wrapped or hooked: its parameters may be used alone."""
    hooked = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is cls and not hooked


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What matrix products compute in: autocast's type, else the given one."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def add_norm(x: Tensor, y: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """-> x + y, the residual stream, and its norm, in the type that the product after it computes in."""
    if is_plain(norm, nn.LayerNorm) and norm.bias is not None:
        return ops.add_layer_norm(x, y, norm.weight, norm.bias, norm.eps, compute_dtype(x.device, x.dtype))
    x = x if y is None else x + y
    return x, norm(x)


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, attention):
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, first: int = 0) -> Tensor:
        """Every row attends to every row; the result is that of the rows from `first` on."""
        x = self.attention(self.qkv(x_BND).unflatten(-1, (3, self.num_heads, -1)))
        return self.proj(x[:, first:])


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        if is_plain(self.fc1, nn.Linear) and self.fc1.bias is not None:
            return self.fc2(ops.bias_gelu(F.linear(x, self.fc1.weight), self.fc1.bias))
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, norm_layer, attention):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, attention)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x (B, N, D) -> (B, N - first, D): the rows before `first` are attended to and computed no further."""
        x, normed = add_norm(x, None, self.norm1)
        x, normed = add_norm(x[:, first:], self.attn(normed, first), self.norm2)
        return x + self.mlp(normed)


class PatchEmbed(nn.Module):
    """Holds the convolution's weight under its official name; applied as a linear map to gathered patches (B, K, P).

    Images (B, C, H, W) it takes too, as the official module does, for code around the model.
    """

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, dim: int):
        super().__init__()
        self.img_size = img_size
        self.patch_size = (patch_size, patch_size)
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(in_chans, dim, kernel_size=patch_size, stride=patch_size)

    def check(self, imgs: Tensor) -> None:
        """ValueError for images that this model does not take."""
        (C, height, width), (h, w) = ops.image_shape(imgs), self.img_size
        if (C, height, width) != (self.proj.in_channels, h, w):
            raise ValueError(
                f"imgs: this model takes {h} x {w} pixels and {self.proj.in_channels} channels, as float (B, C, H, W) "
                f"or uint8 (B, H, W, C); got {imgs.dtype} of shape {tuple(imgs.shape)}"
            )

    def all_ids(self, imgs: Tensor) -> Tensor:
        """ids (B, L) of every patch, in image order."""
        return torch.arange(self.num_patches, device=imgs.device).expand(len(imgs), -1)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            if x.shape[2:] != self.img_size:
                raise ValueError(f"x: this model takes images of {self.img_size} pixels, got {tuple(x.shape)}")
            return self.proj(x).flatten(2).transpose(1, 2)
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # (D, c, p, q) -> (D, P) in patch order (p, q, c)
        return F.linear(x, weight, self.proj.bias)


def check_sizes(img_size, patch_size, embed_dim, num_heads, decoder_embed_dim, decoder_num_heads) -> None:
    """ValueError for sizes of which no Masked Autoencoder can be made."""
    if patch_size < 1 or len(img_size) != 2 or any(side < 1 or side % patch_size for side in img_size):
        raise ValueError(f"img_size: {img_size} is not a whole number of patches of patch_size={patch_size} pixels")
    widths = {"embed_dim": (embed_dim, num_heads), "decoder_embed_dim": (decoder_embed_dim, decoder_num_heads)}
    for name, (dim, heads) in widths.items():
        if dim < 1 or heads < 1 or dim % 4 or dim % heads:
            raise ValueError(f"{name}: {dim} must be a multiple of 4 (sin-cos positions) and of its {heads} heads")
