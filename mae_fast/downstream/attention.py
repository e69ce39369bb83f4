"""What the encoder looks at: the class token's attention, head by head, and attention rollout.

The fused op keeps no probabilities, so they are computed here from q and k, in plain PyTorch.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae_fast.files.atomic import write_atomic
from mae_fast.model import Block, MaskedAutoencoderViT


@dataclass(frozen=True)
class AttentionMaps:
    """heads: (B, H, h, w), the class token's attention to each patch in one block. rollout: (B, h, w), what reaches the
    class token through all blocks up to that one. Float32, shares of 1; the rest is the class token's own."""

    heads: Tensor
    rollout: Tensor


@torch.inference_mode()
def attention_maps(model: MaskedAutoencoderViT, imgs: Tensor, layer: int | None = None) -> AttentionMaps:
    """Where the class token looks in whole images, uint8 (B, H, W, C) or float (B, C, H, W), normalised.

    layer: the block whose heads are given, counted from 1; None is the last. Rollout (Abnar and Zuidema 2020, section
    3): the product over blocks of each one's mean over heads, half of it the identity for the residual connection.
    """
    depth = len(model.blocks)
    layer = depth if layer is None else layer
    if not 1 <= layer <= depth:
        raise ValueError(f"layer: expected 1 to {depth}, the blocks of this encoder; got {layer}")
    x, reached = model.encode(imgs, layer=0), None
    for block in model.blocks[:layer]:
        weights = probabilities(block, x)
        mixed = 0.5 * weights.mean(1) + 0.5 * torch.eye(weights.shape[-1], device=x.device)
        reached = mixed if reached is None else mixed @ reached
        x = block(x)
    grid = model.patch_embed.grid_size
    return AttentionMaps(weights[:, :, 0, 1:].unflatten(-1, grid), reached[:, 0, 1:].unflatten(-1, grid))


def probabilities(block: Block, x: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dh)) of a block for its input x (B, N, D): float32 (B, H, N, N), rows of sum 1."""
    q, k, _ = block.attn.qkv(block.norm1(x)).float().unflatten(-1, (3, block.attn.num_heads, -1)).unbind(2)
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) * q.shape[-1] ** -0.5
    return scores.softmax(-1)


def draw_maps(names: list[str], pictures: np.ndarray, maps: AttentionMaps, out: str | Path, note: str) -> None:
    """Write a PNG: a row an image, with the rollout and each head's map over it, the note underneath.

    pictures: (B, H, W, 3 or 1), in 0..1. Each map has a colour scale of its own, from its least to its greatest share.
    """
    from matplotlib.figure import Figure

    titles = ["picture", "rollout", *(f"head {number + 1}" for number in range(maps.heads.shape[1]))]
    figure = Figure(figsize=(1.7 * len(titles), 1.7 * len(names) + 0.6), layout="constrained")
    axes = figure.subplots(len(names), len(titles), squeeze=False)
    for row, name in enumerate(names):
        for axis, title, over in zip(axes[row], titles, [None, maps.rollout[row], *maps.heads[row]], strict=True):
            overlay(axis, pictures[row], over)
            axis.set_title(title if row == 0 else "", fontsize=8)
        axes[row][0].set_ylabel(name, fontsize=8)
    figure.supxlabel(note, fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))


def overlay(axis, picture: np.ndarray, over: Tensor | None = None, **scale) -> None:
    """Show a picture (H, W, 3 or 1), in 0..1, on matplotlib's axis, faded under a map (h, w) where there is one.

    scale: vmin and vmax of the map, by default its own least and greatest.
    """
    axis.set(xticks=[], yticks=[])
    if over is None:
        axis.imshow(picture.squeeze(-1) if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=1)
        return
    height, width = picture.shape[:2]
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=1)
    axis.imshow(over.cpu().numpy(), cmap="inferno", alpha=0.6, extent=extent, interpolation="bilinear", **scale)
