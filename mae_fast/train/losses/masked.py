"""The loss of a Masked Autoencoder."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mae_fast.model import MaskedAutoencoderViT
from mae_fast.model.masking import SampleNoise, of_each


class MAELoss(nn.Module):
    """The model's loss of pixels over the masked patches (He et al. 2022, section 3), and terms added to it.

    draw_noise: what masks are drawn from, in place of the model's own (mae_fast.model.masking). masks: drawn for each
    image of a batch, each of which is encoded and decoded; the loss is their mean.

    terms: modules whose forward(reconstruction, original) gives a scalar, weight included. Both are float (B, C, H, W),
    normalised with the model's mean and std; the reconstruction is the original with the masked patches replaced by
    what was predicted of them (model.paste), so that a term judges how they go with what was visible.
    """

    def __init__(
        self,
        model: MaskedAutoencoderViT,
        mask_ratio: float = 0.75,
        draw_noise: Callable | None = None,
        *,
        masks: int = 1,
        terms: Iterable[nn.Module] = (),
    ):
        super().__init__()
        if masks < 1:
            raise ValueError(f"masks: expected at least 1 of each image, got {masks}")
        self.model, self.mask_ratio, self.draw_noise, self.masks = model, mask_ratio, draw_noise, masks
        self.terms = nn.ModuleList(terms)

    def forward(self, imgs: Tensor, labels: Tensor | None = None) -> Tensor:
        """uint8 (B, H, W, C), or float (B, C, H, W), normalised -> a scalar. Labels are not looked at."""
        noise = self.noise(imgs)
        if not self.terms:
            return self.model.training_loss(imgs, self.mask_ratio, noise)
        pred, ids = self.model.predict_masked(imgs, self.mask_ratio, noise)
        original = self.model.unpatchify(self.model.patchify(imgs))
        pairs = zip(of_each(pred, len(imgs)), of_each(ids, len(imgs)), strict=True)
        losses = [self.model.masked_loss(imgs, *pair) + self.judged(imgs, original, *pair) for pair in pairs]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def judged(self, imgs: Tensor, original: Tensor, pred: Tensor, ids: Tensor) -> Tensor:
        """The sum of the terms, for one mask of each image."""
        reconstruction = self.model.paste(imgs, pred, ids)
        return torch.stack([term(reconstruction, original) for term in self.terms]).sum()

    def noise(self, imgs: Tensor) -> Tensor | None:
        """(masks * B, L); None where the model draws it."""
        draw, batch = self.draw_noise, len(imgs)
        if draw is None and self.masks == 1:
            return None
        grid = self.model.patch_embed.grid_size
        if isinstance(draw, SampleNoise):
            return draw(batch, grid, imgs.device, self.masks)
        return (draw or self.model.draw_noise)(self.masks * batch, grid, imgs.device)


def as_loss(module: nn.Module, mask_ratio: float = 0.75) -> nn.Module:
    """A Masked Autoencoder -> its MAELoss; any other module is a loss as it is: forward(imgs, labels) -> scalar."""
    return MAELoss(module, mask_ratio) if hasattr(module, "training_loss") else module
