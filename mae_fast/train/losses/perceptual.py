"""A term of the loss that compares pictures by the features of a frozen network."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Perceptual(nn.Module):
    """weight times the mean squared difference of the features of the reconstruction and of the original.

    features: any network that takes float (B, C, H, W) as the model normalises it, and gives a tensor, or a list, tuple
    or dict of them, whose differences are averaged. It is frozen, and stays in evaluation mode.
    Source: Johnson et al. 2016, arXiv 1603.08155, equation 2.
    """

    def __init__(self, features: nn.Module, weight: float = 1.0):
        super().__init__()
        check_weight(weight)
        self.features, self.weight = features.requires_grad_(False).eval(), weight

    def train(self, mode: bool = True) -> "Perceptual":
        super().train(mode)
        self.features.eval()
        return self

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = _list(self.features(original))
        found = _list(self.features(reconstruction))
        pairs = zip(found, wanted, strict=True)
        return self.weight * torch.stack([F.mse_loss(a.float(), b.float()) for a, b in pairs]).mean()


def _list(features) -> list[Tensor]:
    if isinstance(features, Mapping):
        return list(features.values())
    return [features] if isinstance(features, Tensor) else list(features)


def check_weight(weight: float) -> None:
    if not 0 <= weight < math.inf:
        raise ValueError(f"weight: expected a finite number, at least 0; got {weight}")
