"""A term of the loss that a second network gives, which learns to tell reconstructions from originals."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mae_fast.train.losses.perceptual import check_weight


def patch_discriminator(in_chans: int = 3, width: int = 64) -> nn.Sequential:
    """A small convolutional network: (B, C, H, W) -> a score for each of its fields, (B, 1, H / 8, W / 8).

    Without batch norm, whose statistics would tell the two kinds of batches apart. Source: Isola et al. 2017,
    arXiv 1611.07004, the 70 x 70 PatchGAN, smaller.
    """
    widths = [in_chans, width, 2 * width, 4 * width]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


class Adversarial(nn.Module):
    """weight times minus the mean score of the reconstruction; the discriminator learns by the hinge loss beside it.

    The value is the model's part alone. The discriminator's gradient comes in the same backward pass: of its own loss
    only, and of reconstructions that are cut off from the model. It has an optimizer of its own, AdamW at a learning
    rate of its own, which TrainingStep steps with the model's.

    discriminator: takes float (B, C, H, W), gives scores of any shape; in_chans is for the default one.
    Source: Lim and Ye 2017, arXiv 1705.02894 (hinge); Esser et al. 2021, arXiv 2012.09841 (betas).
    """

    def __init__(
        self,
        discriminator: nn.Module | None = None,
        weight: float = 0.1,
        *,
        lr: float = 1e-4,
        in_chans: int = 3,
    ):
        super().__init__()
        check_weight(weight)
        self.weight, self.discriminator = weight, discriminator or patch_discriminator(in_chans)
        learning = [p for p in self.discriminator.parameters() if p.requires_grad]
        if not learning:
            raise ValueError("discriminator: it has no parameters to train")
        self.optimizer = torch.optim.AdamW(learning, lr=lr, betas=(0.5, 0.9), weight_decay=0.0, fused=True)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        fixed = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        score = functional_call(self.discriminator, fixed, (reconstruction,)).float().mean()
        real, made = self.discriminator(original), self.discriminator(reconstruction.detach())
        own = F.relu(1 - real.float()).mean() + F.relu(1 + made.float()).mean()
        return own - own.detach() - self.weight * score

    def state(self) -> dict:
        """What a run needs to go on: weights and moments."""
        return {"discriminator": self.discriminator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load(self, state: dict) -> None:
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
