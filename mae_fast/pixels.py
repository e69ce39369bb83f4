"""What the pixels of a run are: channels, type and range of values in files, and the batches that are made of them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from mae_fast.config import IMAGENET_MEAN, IMAGENET_STD

# Types of values that files may hold, and the range that stands for 0 to 1 where nobody gives another.
TYPES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (0.0, 1.0)}


@dataclass(frozen=True)
class Pixels:
    """channels: of a picture; type: of the values in its file, a key of TYPES.

    value_range: the values that become 0 and 1 (default: by the type); mean, std: a channel each, of what they become
    (default ImageNet's for three channels, else 0.5). Raises ValueError naming what does not fit.
    """

    channels: int = 3
    type: str = "uint8"
    value_range: tuple[float, float] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.type not in TYPES:
            raise ValueError(f"type: expected one of {', '.join(TYPES)}, got {self.type!r}")
        if self.channels < 1:
            raise ValueError(f"in_chans: expected at least 1, got {self.channels}")
        coloured = self.channels == 3
        defaults = {
            "value_range": TYPES[self.type],
            "mean": IMAGENET_MEAN if coloured else (0.5,) * self.channels,
            "std": IMAGENET_STD if coloured else (0.5,) * self.channels,
        }
        for name, default in defaults.items():
            given = getattr(self, name)
            object.__setattr__(self, name, tuple(map(float, default if given is None else given)))
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"mean, std: expected {self.channels} numbers each (in_chans), got {self.mean} and {self.std}"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std: expected numbers above 0, got {self.std}")
        if len(self.value_range) != 2 or not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range: expected two numbers, the lower first; got {self.value_range}")

    @classmethod
    def of_config(cls, config: dict) -> "Pixels":
        """From the configuration that a checkpoint holds (`mae_fast.files.layouts.describe`)."""
        told = {name: config.get(name) for name in ("value_range", "mean", "std")}
        return cls(config.get("in_chans", 3), config.get("pixel_type", "uint8"), **told)

    @property
    def as_bytes(self) -> bool:
        """Whether batches are uint8 (B, H, W, C), which the model normalises; else float32 (B, C, H, W), normalised."""
        return self.type == "uint8" and self.value_range == TYPES["uint8"]

    @property
    def mode(self) -> str | None:
        """RGB or L where pictures are 8-bit photographs, in Pillow's words; None for all others."""
        return {1: "L", 3: "RGB"}.get(self.channels) if self.as_bytes else None

    def __str__(self) -> str:
        low, high = self.value_range
        plural = "s" * (self.channels > 1)
        return f"{self.channels} channel{plural} of {self.type}, values {low:g} to {high:g}"

    def blank(self, batch: int, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """A batch of zeros in the shape and type of a loader's. size: (height, width) in pixels."""
        if self.as_bytes:
            return torch.zeros(batch, *size, self.channels, dtype=torch.uint8, device=device)
        return torch.zeros(batch, self.channels, *size, device=device)

    def batch(self, values: Tensor) -> Tensor:
        """Values as in files, float (B, C, H, W) -> the batch that a model takes."""
        if self.as_bytes:
            return values.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        low, high = self.value_range
        mean, std = (torch.tensor(numbers).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return (values - (low + (high - low) * mean)) / ((high - low) * std)

    def unit(self, imgs: Tensor) -> Tensor:
        """A batch -> float (B, C, H, W), 0 to 1 over the value range: what is drawn."""
        if imgs.dtype == torch.uint8:
            return imgs.permute(0, 3, 1, 2) / 255
        mean, std = (torch.tensor(numbers, device=imgs.device).view(-1, 1, 1) for numbers in (self.mean, self.std))
        return imgs * std + mean


RGB = Pixels()
