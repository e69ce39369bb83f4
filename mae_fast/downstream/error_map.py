"""Reconstruction error as an anomaly map: what a model cannot guess from the rest of a picture is unusual there.

Several masks that complement each other make every patch one that the model did not see.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae_fast.downstream.attention import overlay
from mae_fast.files.atomic import write_atomic
from mae_fast.model import MaskedAutoencoderViT


@torch.inference_mode()
def error_map(
    model: MaskedAutoencoderViT,
    imgs: Tensor,
    mask_ratio: float = 0.75,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Mean squared error of each patch where it was hidden: float32 (B, h, w), h x w patches.

    imgs: whole images, uint8 (B, H, W, C) or float (B, C, H, W), normalised. The masks share an image's patches out at
    random, drawn from the generator: four at a mask_ratio of 0.75, each patch visible in one and judged in three.
    The error is what training minimises: that of pixels normalised by mean and std, and, of a model trained with
    norm_pix_loss, by each patch's own. ValueError for a mask_ratio that hides nothing or everything.
    """
    target = model.patchify(imgs).float()
    if model.norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    B, L, _ = target.shape
    errors, counts = torch.zeros(2, B, L, device=imgs.device)
    for noise in complementary_noise(B, L, mask_ratio, generator):
        latent, mask, ids_restore = model.forward_encoder(imgs, mask_ratio, noise.to(imgs.device))
        pred = model.forward_decoder(latent, ids_restore)
        errors += mask * (pred.float() - target).square().mean(-1)
        counts += mask
    return (errors / counts).unflatten(1, model.patch_embed.grid_size)


def complementary_noise(
    batch: int, patches: int, mask_ratio: float, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Noise (batch, patches) of masks that together hide every patch. Visible sets do not overlap, but that the last
    is filled up; where more is shown than hidden, it is the hidden sets that do not.

    The patches of an image lie
    in a random order on a circle, along which the visible ones, those of the lowest noise, move from mask to mask.
    """
    kept = int(patches * (1 - mask_ratio))
    if not 0 < kept < patches:
        raise ValueError(f"mask_ratio: {mask_ratio} shows {kept} of {patches} patches; an error map wants some of each")
    stride = min(kept, patches - kept)
    places = torch.rand(batch, patches, generator=generator).argsort(1)
    for start in range(0, patches, stride):
        yield ((places - start) % patches).float()


def draw_error_maps(
    names: list[str],
    pictures: np.ndarray,
    maps: Tensor,
    regions: Sequence[np.ndarray | None] | None,
    out: str | Path,
    note: str,
) -> None:
    """Write a PNG: a row an image, with its error map over it, on one scale for all maps, those not drawn included.

    pictures: (B, H, W, 3 or 1), in 0..1; maps: (B, h, w) or more; regions: bool (H, W) of what is known to be unusual,
    for a third column, None where nothing is; the note underneath.
    """
    from matplotlib.figure import Figure

    titles = ["picture", "error", *(["known"] if regions else [])]
    figure = Figure(figsize=(2.4 * len(titles), 2.4 * len(names) + 0.5), layout="constrained")
    axes = figure.subplots(len(names), len(titles), squeeze=False)
    scale = {"vmin": maps.min().item(), "vmax": maps.max().item()}
    for row, name in enumerate(names):
        overlay(axes[row][0], pictures[row])
        overlay(axes[row][1], pictures[row], maps[row], **scale)
        if regions:
            region = regions[row] if regions[row] is not None else np.zeros(pictures[row].shape[:2])
            overlay(axes[row][2], np.asarray(region, float)[..., None])
        axes[row][0].set_ylabel(name, fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title)
    figure.supxlabel(note, fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))
