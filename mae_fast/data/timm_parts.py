"""The parts of timm that training of a classifier is made of, each drawing from seeds that it is given.

timm draws from the generators of Python, NumPy and PyTorch, which threads share. The files used here need nothing else
of timm, so each is loaded on its own, without the package around it, and gets generators of its own. That also leaves
out what timm imports besides: torchvision, which does not import beside another build of PyTorch than its own.
"""

import importlib.util
import random
import threading
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mae_fast.data.augment import Augment

_drawing = threading.local()  # .python and .numpy: the generators of what this thread is at


class _Python:
    """In place of the module random: what this thread draws from."""

    def __getattr__(self, name: str):
        return getattr(_drawing.python, name)


class _NumPy:
    """In place of numpy: the same but for its random numbers."""

    @property
    def random(self) -> np.random.RandomState:
        return _drawing.numpy

    def __getattr__(self, name: str):
        return getattr(np, name)


class _ImageOps:
    """In place of PIL.ImageOps. Asked for no bits at all Pillow 13 raises, and older ones paint it black, as here."""

    def __getattr__(self, name: str):
        return getattr(ImageOps, name)

    def posterize(self, image: Image.Image, bits: int) -> Image.Image:
        return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)


def _seed(seed: int) -> None:
    _drawing.python, _drawing.numpy = random.Random(seed), np.random.RandomState(seed)


def _part(name: str) -> ModuleType:
    """timm/data/NAME.py as a new module, the caller's alone. ImportError where timm is not installed."""
    found = importlib.util.find_spec("timm")
    if found is None:
        raise ImportError("timm is not installed, and aa, reprob, mixup and cutmix need it; pip install timm")
    path = Path(found.origin).with_name("data") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"mae_fast_timm_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.random, module.np, module.ImageOps = _Python(), _NumPy(), _ImageOps()
    return module


class RandAugment:
    """timm's RandAugment (Cubuk et al. 2020) of a policy such as "rand-m9-mstd0.5-inc1", for pictures of `size`."""

    def __init__(self, policy: str, size: tuple[int, int], fill: tuple[int, ...]):
        self._arguments = policy, size, fill
        how = {"translate_const": int(min(size) * 0.45), "img_mean": fill, "interpolation": Image.Resampling.BICUBIC}
        try:
            self._transform = _part("auto_augment").rand_augment_transform(policy, how)
        except (AssertionError, ValueError) as error:
            remedy = "try rand-m9-mstd0.5-inc1"
            raise ValueError(f"aa: {policy!r} is no policy of RandAugment ({error}); {remedy}") from None

    def __reduce__(self):
        return RandAugment, self._arguments

    def __call__(self, image: Image.Image, seed: int) -> Image.Image:
        """A picture in 8-bit RGB -> another one of its size."""
        _seed(seed)
        return self._transform(image)


def rand_augment(augment: Augment, size: tuple[int, int]) -> RandAugment | None:
    """That of an augmentation, for pictures of (height, width); None where it has none."""
    return RandAugment(augment.policy, size, augment.fill) if augment.policy else None


class RandomErasing:
    """timm's RandomErasing (Zhong et al. 2017) as main_finetune.py has it: a rectangle of 2 to 33 % of the picture.

    mode: pixel, rand or const: what it is filled with, normal numbers, one colour of them, or zeros.
    """

    def __init__(self, probability: float, mode: str, count: int, device: torch.device):
        module = _part("random_erasing")
        self._normal = torch.Generator(device)
        module._get_pixels = self._pixels
        self._erase = module.RandomErasing(probability, mode=mode, max_count=count, device=device)

    def __call__(self, imgs: Tensor, seeds: list[int]) -> None:
        """Erase in float images (B, C, H, W), normalised, in place; a seed each."""
        for image, seed in zip(imgs, seeds, strict=True):
            _seed(seed)
            self._normal.manual_seed(seed)
            self._erase(image)

    def _pixels(self, per_pixel, rand_color, patch_size, dtype, device) -> Tensor:
        shape = patch_size if per_pixel else (patch_size[0], 1, 1)
        pixels = torch.zeros(shape, dtype=dtype, device=device)
        return pixels.normal_(generator=self._normal) if per_pixel or rand_color else pixels


class Mixup:
    """timm's Mixup and CutMix (Zhang et al. 2018, Yun et al. 2019), between a batch and itself in reverse.

    arguments: timm's. Raises ValueError for those that cannot work.
    """

    def __init__(self, **arguments):
        self._mix = _part("mixup").Mixup(**arguments)

    def __call__(self, imgs: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """float (B, C, H, W), mixed in place, and int64 (B,), B even -> the images, and float targets (B, classes)."""
        _seed(seed)
        return self._mix(imgs, labels)
