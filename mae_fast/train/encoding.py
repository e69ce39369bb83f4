"""Pictures -> features: the encoder on every picture of a loader, with nothing masked and no gradient."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import compiling

POOLS = ("cls", "mean", "patches")
WORTH = 100_000  # pictures from which half a minute of compiling comes back, on CUDA


@dataclass(frozen=True)
class Features:
    """features: float32 (N, D), or (N, L, D) of patches; labels: int64 (N,), None where the source has no classes;
    indices: int64 (N,), which pictures of the source they are. On the CPU."""

    features: Tensor
    labels: Tensor | None
    indices: np.ndarray


class Encoder(nn.Module):
    """A model's features of pictures, uint8 (B, H, W, C) or float (B, C, H, W): (B, D), or (B, L, D) of patches.

    pool: cls, the class token; mean, the mean of the patches; patches, all of them in image order. layer: as in
    `MaskedAutoencoderViT.encode`.
    """

    def __init__(self, model: MaskedAutoencoderViT, pool: str = "cls", layer: int | None = None):
        super().__init__()
        if pool not in POOLS:
            raise ValueError(f"pool: expected one of {', '.join(POOLS)}; got {pool!r}")
        self.model, self.pool, self.layer = model, pool, layer

    def forward(self, imgs: Tensor) -> Tensor:
        tokens = self.model.encode(imgs, self.layer)
        if self.pool == "cls":
            return tokens[:, 0].float()
        return tokens[:, 1:].float() if self.pool == "patches" else tokens[:, 1:].mean(1, dtype=torch.float32)


@torch.no_grad()
def encode_batch(encoder: nn.Module, imgs: Tensor, dtype: torch.dtype) -> Tensor:
    """What an Encoder makes of a batch, with matrix products in dtype: float32 features on the encoder's device."""
    device = next(encoder.parameters()).device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        return encoder(imgs.to(device, non_blocking=True))


def encode_all(encoder: Encoder, batches: Iterable, dtype: torch.dtype, images: int = 0) -> Features:
    """Features of all pictures. batches: (imgs, labels, indices), as `EvalLoader.indexed` gives them.

    dtype: of the matrix products. images: how many are to come; on CUDA many are worth compiling. ValueError where none
    came.
    """
    device = next(encoder.parameters()).device
    compiled = compiling.decide(None, device.type == "cuda" and images >= WORTH, device)
    network, size, found = torch.compile(encoder, dynamic=False) if compiled else encoder, 0, []
    for imgs, labels, indices in batches:
        count, size = len(imgs), max(size, len(imgs))
        if compiled and count < size:  # the last batch, which would compile once more
            imgs = F.pad(imgs, (0,) * (2 * imgs.dim() - 1) + (size - count,))
        features = encode_batch(network, imgs, dtype)[:count]
        found.append((features.cpu(), labels if labels is None else labels.cpu(), np.asarray(indices)))
    if not found:
        raise ValueError("images: not one picture could be read")
    features, labels, indices = zip(*found, strict=True)
    return Features(torch.cat(features), None if labels[0] is None else torch.cat(labels), np.concatenate(indices))
