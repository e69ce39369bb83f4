"""The parts of a Vision Transformer: patch embedding, attention, MLP and block, on the fused ops."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae_fast import ops
from mae_fast.model.attention import attend
from mae_fast.model.linear import is_plain, split_linear
from mae_fast.model.stream import Stream, add_norm


class Attention(nn.Module):
    def __init__(self, dim: int, num_heads: int, attention):
        super().__init__()
        self.num_heads, self.attention = num_heads, attention
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, first: int = 0) -> Tensor:
        """Every row attends to every row; the result is that of the rows from `first` on."""
        return self.proj(attend(self.attention, x_BND, self.qkv, self.num_heads)[:, first:])

    def split(self, x_BND: Tensor, first: int = 0) -> tuple[Tensor, Tensor | None]:
        """The same with the last bias apart."""
        return split_linear(self.proj, attend(self.attention, x_BND, self.qkv, self.num_heads)[:, first:])


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.hidden(x))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The same with the last bias apart."""
        return split_linear(self.fc2, self.hidden(x))

    def hidden(self, x: Tensor) -> Tensor:
        x, bias = split_linear(self.fc1, x)
        return F.gelu(x) if bias is None else ops.bias_gelu(x, bias)


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int, hidden: int, norm_layer, attention):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, attention)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, hidden)

    def forward(self, x: Tensor, first: int = 0) -> Tensor:
        """x (B, N, D) -> (B, N - first, D): the rows before `first` are attended to and computed no further."""
        return self.hand_on(Stream(x), first).sum()

    def hand_on(self, stream: Stream, first: int = 0) -> Stream:
        """The same with the MLP's branch left for the next norm to add."""
        x, normed = add_norm(stream, self.norm1)
        x, normed = add_norm(Stream(x[:, first:], *self.branch(self.attn, Attention, normed, first)), self.norm2)
        return Stream(x, *self.branch(self.mlp, Mlp, normed))

    def branch(self, module: nn.Module, cls: type, *args) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """-> what a Stream is to add: y, the last bias apart where the module is what the block made it, and scale."""
        return *(module.split(*args) if is_plain(module, cls) else (module(*args), None)), None


def run_blocks(blocks: nn.ModuleList, x_BND: Tensor, first: int = 0, checkpointing: bool = False) -> Stream:
    """Blocks one after another; what goes on from the last are its rows from `first` on: (B, N - first, D).

    checkpointing: keep each block's input alone for the backward pass, which runs the block again.
    """
    if not len(blocks):
        return Stream(x_BND[:, first:])
    stream = Stream(x_BND)
    for i, block in enumerate(blocks):
        rows = first if i + 1 == len(blocks) else 0
        if checkpointing and torch.is_grad_enabled():  # nothing is random in a block
            x = checkpoint(block, stream.sum(), rows, use_reentrant=False, preserve_rng_state=False)
            stream = Stream(x)
        elif is_plain(block, type(block)) and type(block).forward is Block.forward:
            stream = block.hand_on(stream, rows)
        else:  # what looks at a block's input and output finds the sums there
            stream = Stream(block(stream.sum(), *[rows] * bool(rows)))
    return stream


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
