"""The transforms and loaders of Masked Autoencoder tutorials, over the package's own."""

from collections.abc import Callable, Iterator
from functools import partial

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
from mae_fast.dropin.tutorial_config import recipe_of


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
