"""The short API that Masked Autoencoder tutorials use: a dict of settings, MAE, MAETrainer and four functions.

Thin names over the package, for code written against them; `docs/migrating.md` says what differs. A configuration has
the keys img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, decoder_embed_dim, decoder_depth,
decoder_num_heads, norm_pix_loss (of the model), mask_ratio, batch_size, epochs, lr, dataset, optimizer, scheduler
(of the training; the last three a name, or a dict with `name`), and any flag of `mae-fast pretrain` by its name.
"""

import difflib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mae_fast import reference
from mae_fast.config import IMAGENET_MEAN, IMAGENET_STD
from mae_fast.data import make_loader, open_source
from mae_fast.data.augment import DRAWS, STRENGTHS, Augment, apply_colour, colours, crop_windows, flips
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources.image_file import decode_rgb
from mae_fast.downstream.reconstruct import draw, reconstruct
from mae_fast.files import layouts
from mae_fast.files.checkpoint import load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import SETTINGS, Pretrain
from mae_fast.train import pretrain
from mae_fast.train.report import plot_loss, read_log

MODEL_KEYS = (
    "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "norm_pix_loss",
)  # fmt: skip
# Where a setting of the training goes. Sections may be flat: optimizer: adamw, or optimizer: {name: adamw, lr: 1e-4}.
FLAGS = {
    "img_size": "input_size",
    "norm_pix_loss": "norm_pix_loss",
    "save_interval": "save_every",
    "dataset": "data_path",
    "dataset.root": "data_path",
    "dataset.num_workers": "num_workers",
    "optimizer": "opt",
    "optimizer.name": "opt",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "scheduler": "sched",
    "scheduler.name": "sched",
    "scheduler.min_lr": "min_lr",
    "scheduler.step_size": "decay_epochs",
    "scheduler.gamma": "decay_rate",
    "scheduler.factor": "decay_rate",
    "scheduler.patience": "patience_epochs",
    "scheduler.warmup_epochs": "warmup_epochs",
}
# What is so in any case, or has no counterpart.
FIXED = {"optimizer.betas": [0.9, 0.95], "optimizer.momentum": 0.9}
IGNORED = {
    "model_name", "log_interval", "plot_interval", "test_batch_size", "use_amp", "large_config", "base_config",
    "small_config", "dataset.name", "dataset.use_validation", "dataset.val_batch_size",
}  # fmt: skip


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


def recipe_of(config: dict, device: str = "cuda") -> Pretrain:
    """The recipe that a configuration means.

    Defaults are the official ones, but batch_size 32, epochs 100, lr 1.5e-4, absolute, and warmup over the first
    twentieth of the epochs, the paper's share.
    """
    values = {"batch_size": 32, "epochs": 100, "lr": 1.5e-4, "device": device}
    flat = _flat(config)
    for key, value in flat.items():
        name = FLAGS.get(key, key)
        if key in FIXED:
            if np.any(np.asarray(value) != FIXED[key]):
                raise ValueError(f"config: {key}: expected {FIXED[key]}, got {value}")
        elif name in SETTINGS:
            values[name] = _read(name, value, key)
        elif key not in IGNORED and key not in MODEL_KEYS:
            close = difflib.get_close_matches(key, [*MODEL_KEYS, *FLAGS, *SETTINGS], n=1)
            raise ValueError(f"config: {key} is no setting" + (f"; {close[0]}?" if close else ""))
    if "blr" in config and "lr" not in config:
        values["lr"] = None
    if "warmup_epochs" not in {FLAGS.get(key, key) for key in flat}:
        values["warmup_epochs"] = values["epochs"] / 20
    if not config.get("use_amp", True):
        values["dtype"] = "fp32"
    if "output_dir" in values:
        values["log_dir"] = values["output_dir"]
    try:
        return Pretrain.of(**values)
    except ValueError as error:
        raise ValueError(f"config: {error}") from None


def _read(name: str, value, key: str):
    """The value of a setting; YAML reads 1e-4 as a text, and tutorials write AdamW."""
    try:
        return SETTINGS[name].read(str(value).lower() if name in ("opt", "sched") else value)
    except ValueError as error:
        raise ValueError(f"config: {key}: expected {error}, got {value!r}") from None


def _flat(config: dict) -> dict:
    """{"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}, for the sections there are."""
    flat = {}
    for key, value in config.items():
        section = isinstance(value, dict) and key in ("dataset", "optimizer", "scheduler")
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if section else {key: value}
    return flat


# ---- data ----


def get_augmentation_transforms(level: str = "light", img_size: int = 224) -> Callable[[Image.Image], Tensor]:
    """Pillow image -> float (3, img_size, img_size), normalised, augmented as `mae-fast pretrain --augment level` does.

    level: light, the paper's random-resized crop and flip; medium and strong also change colours. Drawn from torch's
    generator. Raises ValueError for another level.
    """
    if level not in STRENGTHS:
        raise ValueError(f"level: expected one of {', '.join(STRENGTHS)}, got {level!r}")
    return partial(_augmented, side=img_size, augment=STRENGTHS[level])


def get_mae_transforms(img_size: int = 224, is_training: bool = True) -> Callable[[Image.Image], Tensor]:
    """Pillow image -> float (3, img_size, img_size), normalised with ImageNet's mean and std.

    In training a random-resized crop and flip (He et al. 2022, appendix A.1), drawn from torch's generator; else the
    central part, after a resize to 8/7 of the side.
    """
    return get_augmentation_transforms("light", img_size) if is_training else partial(_central, side=img_size)


def _augmented(image: Image.Image, side: int, augment: Augment) -> Tensor:
    draws = torch.rand(1, DRAWS, dtype=torch.float64).numpy()
    [(top, left, height, width)] = crop_windows(np.array([[image.height, image.width]]), draws, augment).tolist()
    image = image.crop((left, top, left + width, top + height)).resize((side, side), Image.Resampling.BICUBIC)
    image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flips(draws, augment)[0] else image
    factors = colours(draws, augment)
    if factors is not None:
        image = Image.fromarray(apply_colour(np.array(image.convert("RGB")), factors[0]))
    return _to_tensor(image)


def _central(image: Image.Image, side: int) -> Tensor:
    scale = int(side * 8 / 7) / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return _to_tensor(image.crop((left, top, left + side, top + side)))


def _to_tensor(image: Image.Image) -> Tensor:
    pixels = torch.from_numpy(np.array(image.convert("RGB"))).unsqueeze(0)
    return reference.normalize(pixels, IMAGENET_MEAN, IMAGENET_STD)[0]


class _Training:
    """A loader, epoch after epoch, as normalised images and their labels."""

    def __init__(self, loader):
        self.loader, self.epoch = loader, 0

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        self.epoch += 1
        for imgs, labels in self.loader.epoch(self.epoch - 1):
            yield reference.normalize(imgs, IMAGENET_MEAN, IMAGENET_STD), labels


class _Validation(Dataset):
    def __init__(self, source, img_size: int):
        self.source, self.transform = source, get_mae_transforms(img_size, is_training=False)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(decode_rgb(self.source.encoded(index))), int(self.source.labels[index])


def create_mae_dataloaders(config: dict) -> tuple[_Training, DataLoader | None]:
    """-> training and, with dataset.use_validation, validation batches: float (B, 3, H, W), normalised, and labels.

    MAETrainer does not need them: it feeds uint8 images, which the model normalises itself.
    """
    recipe = recipe_of(config)
    data, workers = recipe.data, min(recipe.data.num_workers, available_cpus())
    loader = make_loader(
        open_source(data.data_path), data.batch_size, data.input_size, seed=recipe.seed, augment=data.augment,
        num_workers=workers, backend=data.loader, on_bad_image=data.on_bad_image,
    )  # fmt: skip
    dataset = config.get("dataset")
    if not isinstance(dataset, dict) or not dataset.get("use_validation"):
        return _Training(loader), None
    validation = _Validation(open_source(data.data_path, "val"), data.input_size)
    size = dataset.get("val_batch_size", data.batch_size)
    return _Training(loader), DataLoader(validation, size, num_workers=workers)


# ---- models and pictures ----


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
