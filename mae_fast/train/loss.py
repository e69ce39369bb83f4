"""What a training step minimises: a module that takes a batch and gives its mean loss."""

from torch import Tensor, nn

from mae_fast.model import MaskedAutoencoderViT


class MAELoss(nn.Module):
    """The loss of a Masked Autoencoder: mean squared error over the masked patches (He et al. 2022, section 3)."""

    def __init__(self, model: MaskedAutoencoderViT, mask_ratio: float = 0.75):
        super().__init__()
        self.model, self.mask_ratio = model, mask_ratio

    def forward(self, imgs: Tensor, labels: Tensor | None = None) -> Tensor:
        """uint8 (B, H, W, C), or float (B, C, H, W), normalised -> a scalar. Labels are not looked at."""
        return self.model.training_loss(imgs, self.mask_ratio)


def as_loss(module: nn.Module, mask_ratio: float = 0.75) -> nn.Module:
    """A Masked Autoencoder -> its MAELoss; any other module is a loss as it is: forward(imgs, labels) -> scalar."""
    return MAELoss(module, mask_ratio) if hasattr(module, "training_loss") else module
