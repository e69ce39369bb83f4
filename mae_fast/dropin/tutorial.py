"""The short API that Masked Autoencoder tutorials use: a dict of settings, MAE, MAETrainer and four functions.

Thin names over the package, for code written against them; `docs/migrating.md` says what differs. The keys of a
configuration: mae_fast.dropin.tutorial_config.
"""

from pathlib import Path

import torch
from torch import Tensor

from mae_fast.downstream.reconstruct import draw, reconstruct
from mae_fast.dropin.tutorial_config import MODEL_KEYS, recipe_of
from mae_fast.dropin.tutorial_data import create_mae_dataloaders, get_augmentation_transforms, get_mae_transforms
from mae_fast.files import layouts
from mae_fast.files.checkpoint import load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import pretrain
from mae_fast.train.report import plot_loss, read_log

__all__ = [
    "MAE",
    "MAETrainer",
    "create_mae_dataloaders",
    "get_augmentation_transforms",
    "get_mae_transforms",
    "load_pretrained_mae",
    "recipe_of",
    "visualize_mae_reconstruction",
]


class MAE(MaskedAutoencoderViT):
    """A Masked Autoencoder of a configuration; what it leaves out is as in MaskedAutoencoderViT.

    `model(imgs, mask_ratio)` -> loss, pred, mask.
    """

    def __init__(self, config: dict):
        super().__init__(**{key: config[key] for key in MODEL_KEYS if key in config})

    @property
    def config(self) -> dict:
        """The settings of the model, as it is."""
        return layouts.describe(self)

    def encoder(self, imgs: Tensor, mask_ratio: float = 0.75) -> tuple[Tensor, Tensor, Tensor]:
        """-> latent (B, 1+K, D), mask (B, L) with 1 = removed, ids_restore (B, L).

        The patches come in shuffled order, also where none is masked; `encode` gives them in image order.
        """
        return self.forward_encoder(imgs, mask_ratio)


class MAETrainer:
    """`mae-fast pretrain` for a configuration and a device; raises ValueError naming a key that means nothing to it."""

    def __init__(self, config: dict, device: torch.device | str):
        self.recipe = recipe_of(config, str(device))
        self.model = MAE(config)

    def train(self) -> None:
        """Train self.model, with checkpoints, log.txt and loss.png in output_dir."""
        pretrain(self.recipe, self.model)

    def plot_training_curves(self) -> Path:
        """Draw loss and learning rate of output_dir/log.txt into output_dir/training_curves.png."""
        folder = Path(self.recipe.output_dir)
        plot_loss(read_log(folder / "log.txt"), folder / "training_curves.png")
        return folder / "training_curves.png"


def load_pretrained_mae(model_name: str = "mae-base", device: torch.device | str = "cpu") -> MAE:
    """mae-base, mae-large or mae-huge from Hugging Face's hub, or what `load_pretrained` takes; ready to encode."""
    hub = {name: f"facebook/vit-{name}" for name in ("mae-base", "mae-large", "mae-huge")}
    model = load_pretrained(hub.get(model_name, model_name))
    model.__class__ = MAE  # the same parameters, with the two names more
    return model.to(device).eval()


def visualize_mae_reconstruction(
    model: MaskedAutoencoderViT,
    dataloader,
    device: torch.device | str = "cpu",
    num_samples: int = 8,
    mask_ratio: float = 0.75,
    path: str | Path = "mae_reconstruction.png",
) -> Path:
    """Draw the first images of a loader of normalised images, or of such a batch: original, masked, reconstructed."""
    imgs = dataloader if isinstance(dataloader, Tensor) else next(iter(dataloader))[0]
    imgs = imgs[:num_samples].to(device)
    mean, std = (torch.tensor(v, device=imgs.device).view(1, -1, 1, 1) for v in (model.mean, model.std))
    pixels = ((imgs * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    result = reconstruct(model.to(device), pixels, mask_ratio)
    names = [str(i + 1) for i in range(len(imgs))]
    draw(names, result, path, f"{mask_ratio:.0%} masked, loss {result.loss:.4f}")
    return Path(path)
