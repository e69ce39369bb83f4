"""What a training step minimises: a module that takes a batch and gives its mean loss."""

from collections.abc import Callable

from torch import Tensor, nn

from mae_fast.model import MaskedAutoencoderViT


class MAELoss(nn.Module):
    """The loss of a Masked Autoencoder: mean squared error over the masked patches (He et al. 2022, section 3).

    draw_noise: what masks are drawn from, in place of the model's own (mae_fast.model.masking).
    """

    def __init__(self, model: MaskedAutoencoderViT, mask_ratio: float = 0.75, draw_noise: Callable | None = None):
        super().__init__()
        self.model, self.mask_ratio, self.draw_noise = model, mask_ratio, draw_noise

    def forward(self, imgs: Tensor, labels: Tensor | None = None) -> Tensor:
        """uint8 (B, H, W, C), or float (B, C, H, W), normalised -> a scalar. Labels are not looked at."""
        noise = self.draw_noise and self.draw_noise(len(imgs), self.model.patch_embed.grid_size, imgs.device)
        return self.model.training_loss(imgs, self.mask_ratio, noise)


def as_loss(module: nn.Module, mask_ratio: float = 0.75) -> nn.Module:
    """A Masked Autoencoder -> its MAELoss; any other module is a loss as it is: forward(imgs, labels) -> scalar."""
    return MAELoss(module, mask_ratio) if hasattr(module, "training_loss") else module
