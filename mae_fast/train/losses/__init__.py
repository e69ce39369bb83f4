"""What a training step minimises: modules whose forward(imgs, labels) gives the mean loss of a batch.

MAELoss is that of pretraining: the model's own loss of masked pixels, and terms that judge the picture put together.
The losses of pixels by name are in mae_fast.model.losses, since a model reports them too.
"""

from mae_fast.train.losses.adversarial import Adversarial, patch_discriminator
from mae_fast.train.losses.masked import MAELoss, as_loss
from mae_fast.train.losses.perceptual import Perceptual

__all__ = ["Adversarial", "MAELoss", "Perceptual", "as_loss", "patch_discriminator"]
