"""What happens to a batch between the loader and the classifier: erasing, mixup and cutmix, on the device."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mae_fast.data.timm_parts import Mixup, RandomErasing
from mae_fast.recipe import Finetune

_ERASE, _MIX = 3, 4  # keeps the two streams of seeds apart, and from those of the sampler


def seeds(kind: int, seed: int, epoch: int, places: range) -> list[int]:
    """A number below 2^32 for each place in the epoch's order."""
    return [int(np.random.SeedSequence((kind, seed, epoch, place)).generate_state(1)[0]) for place in places]


def normalise(imgs: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """uint8 (B, H, W, C) -> float32 (B, C, H, W), contiguous; float images are normalised already."""
    if imgs.is_floating_point():
        return imgs.clone()
    mean, std = (torch.tensor(x, device=imgs.device).view(1, -1, 1, 1) for x in (mean, std))
    return ((imgs.permute(0, 3, 1, 2) / 255 - mean) / std).contiguous()


class Mixing:
    """(imgs, labels, epoch, first place) -> float images (B, C, H, W) and labels, or targets (B, classes).

    Erasing belongs to the picture's place in the epoch, mixing to the first place of the batch: a run that goes on sees
    the same.
    """

    def __init__(self, recipe: Finetune, classes: int, mean: list[float], std: list[float], device: torch.device):
        self.seed, self.mean, self.std, self.device = recipe.seed, mean, std, device
        self.erase = RandomErasing(recipe.reprob, recipe.remode, recipe.recount, device) if recipe.reprob else None
        self.mix = None
        if recipe.mixes:
            self.mix = Mixup(
                mixup_alpha=recipe.mixup, cutmix_alpha=recipe.cutmix, cutmix_minmax=recipe.cutmix_minmax,
                prob=recipe.mixup_prob, switch_prob=recipe.mixup_switch_prob, mode=recipe.mixup_mode,
                label_smoothing=recipe.smoothing, num_classes=classes,
            )  # fmt: skip

    def __call__(self, imgs: Tensor, labels: Tensor, epoch: int, place: int) -> tuple[Tensor, Tensor]:
        imgs = normalise(imgs.to(self.device, non_blocking=True), self.mean, self.std)
        labels = labels.to(self.device, non_blocking=True)
        if self.erase:
            self.erase(imgs, seeds(_ERASE, self.seed, epoch, range(place, place + len(imgs))))
        if self.mix:
            imgs, labels = self.mix(imgs, labels, seeds(_MIX, self.seed, epoch, range(place, place + 1))[0])
        return imgs, labels


def mixing_of(recipe, classes: int, mean: list[float], std: list[float], device: torch.device) -> Callable | None:
    """None where batches go to the classifier as the loader makes them."""
    if not isinstance(recipe, Finetune) or not (recipe.reprob or recipe.mixes):
        return None
    return Mixing(recipe, classes, mean, std, device)
