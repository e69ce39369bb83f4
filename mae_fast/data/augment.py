"""Augmentation as arithmetic on uniform random numbers: crop window, flip, colour.

light is the recipe of the MAE paper (appendix A.1): random-resized crop and flip, no colour.
"""

from dataclasses import dataclass

import numpy as np

from mae_fast.config import IMAGENET_MEAN

ATTEMPTS = 10
TOP, LEFT, FLIP, BRIGHTNESS, CONTRAST, SATURATION, GREY, SEED = range(2 * ATTEMPTS, 2 * ATTEMPTS + 8)
DRAWS = 2 * ATTEMPTS + 8  # random numbers per picture: areas, ratios, then the columns named above
LUMA = np.float32([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Augment:
    """scale: area of the crop as a share of the picture; ratio: its width / height; flip, grey: probabilities.

    jitter: brightness, contrast and saturation are each multiplied by a factor in 1 - jitter .. 1 + jitter.
    attempts: crops drawn until one fits; after the last, none: the largest centred one, or with a single attempt that
    one, cut off at the picture's sides, as the official linear probe does. policy: of RandAugment, in timm's words
    ("rand-m9-mstd0.5-inc1"), for 8-bit RGB; fill: what it fills uncovered corners with.
    """

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.0
    grey: float = 0.0
    attempts: int = ATTEMPTS
    policy: str = ""
    fill: tuple[int, ...] = tuple(round(255 * x) for x in IMAGENET_MEAN)


STRENGTHS = {"light": Augment(), "medium": Augment(jitter=0.2), "strong": Augment(jitter=0.4, grey=0.2)}


def crop_windows(sizes: np.ndarray, draws: np.ndarray, augment: Augment) -> np.ndarray:
    """int32 (B, 4): top, left, height, width. sizes: (B, 2) height, width in pixels; draws: (B, DRAWS) in [0, 1).

    The meaning of torchvision's RandomResizedCrop: the first of ten attempts that fits, area uniform and ratio
    log-uniform; where none fits, the largest centred crop within the ratios.
    """
    height, width = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)
    low, high = augment.scale
    area = height * width * (low + (high - low) * draws[:, :ATTEMPTS])
    low, high = np.log(augment.ratio)
    ratio = np.exp(low + (high - low) * draws[:, ATTEMPTS : 2 * ATTEMPTS])
    tall, wide = np.rint(np.sqrt(area / ratio)), np.rint(np.sqrt(area * ratio))  # (B, ATTEMPTS)
    if augment.attempts == 1:
        tall, wide = np.clip(tall, 1, height), np.clip(wide, 1, width)
    fits = (tall >= 1) & (tall <= height) & (wide >= 1) & (wide <= width)
    first = fits.argmax(axis=1)[:, None]
    tall, wide = np.take_along_axis(tall, first, 1)[:, 0], np.take_along_axis(wide, first, 1)[:, 0]

    height, width = height[:, 0], width[:, 0]
    top, left = np.floor(draws[:, TOP] * (height - tall + 1)), np.floor(draws[:, LEFT] * (width - wide + 1))
    none = ~fits.any(axis=1)
    tall = np.where(none, np.minimum(height, np.rint(width / augment.ratio[0])), tall)
    wide = np.where(none, np.minimum(width, np.rint(height * augment.ratio[1])), wide)
    top, left = np.where(none, (height - tall) // 2, top), np.where(none, (width - wide) // 2, left)
    return np.stack([top, left, tall, wide], axis=1).astype(np.int32)


def flips(draws: np.ndarray, augment: Augment) -> np.ndarray:
    """int32 (B,): 1 where the picture is mirrored left to right."""
    return (draws[:, FLIP] < augment.flip).astype(np.int32)


def colours(draws: np.ndarray, augment: Augment) -> np.ndarray | None:
    """float32 (B, 3): factors of brightness, contrast and saturation; None where the strength has no colour."""
    if not (augment.jitter or augment.grey):
        return None
    factors = 1 + augment.jitter * (2 * draws[:, [BRIGHTNESS, CONTRAST, SATURATION]] - 1)
    factors[draws[:, GREY] < augment.grey, 2] = 0
    return factors.astype(np.float32)


def seeds(draws: np.ndarray, augment: Augment) -> np.ndarray | None:
    """int32 (B,): what RandAugment draws from; None where there is no policy."""
    return (draws[:, SEED] * 2**31).astype(np.int32) if augment.policy else None


def apply_colour(image: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) -> the same: brightness * (128 + contrast * (x - 128)), x mixed with its luma by saturation.

    What DALI's color_twist computes, to within 1 of 255.
    """
    brightness, contrast, saturation = factors
    luma = (image @ LUMA)[..., None]
    mixed = luma + saturation * (image - luma)
    return np.clip(np.rint(brightness * (128 + contrast * (mixed - 128))), 0, 255).astype(np.uint8)
