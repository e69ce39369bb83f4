"""What a side must pass before it is timed: its loss and its gradient, held to float64 by the parity rule.

err(side) <= 2 err(naive PyTorch at the same precision) + a floor, errors relative to the float64 reference. The error
of the gradient is that of all parameters together: |g - exact| / |exact|.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.peers import MASK_RATIO
from mae_fast import reference

FLOOR = {torch.float32: 1e-6, torch.bfloat16: 2e-3}
SLICE = 4  # images that the reference takes at a time: in float64 a whole batch of Large would not fit


@dataclass(frozen=True)
class Errors:
    loss: float
    gradient: float


class Gate:
    """The numbers of one batch, with masks drawn from `seed`, and what error they allow at each precision."""

    def __init__(self, state: dict, kwargs: dict, imgs: Tensor, seed: int = 0):
        self.imgs, self.seed = imgs, seed
        torch.manual_seed(seed)
        noise = torch.rand(len(imgs), (kwargs["img_size"] // kwargs["patch_size"]) ** 2, device=imgs.device)
        model = reference.MaskedAutoencoderViT(**kwargs, norm_pix_loss=True).to(imgs.device)
        model.load_state_dict(state)
        plain = {dtype: _naive(model, imgs, noise, dtype) for dtype in FLOOR}
        self.loss, gradients = _naive(model.double(), imgs.double(), noise, torch.float64)
        self.gradients = {name: grad.float() for name, grad in gradients.items()}
        self.plain = {dtype: self.errors(*numbers) for dtype, numbers in plain.items()}

    def errors(self, loss: float, gradients: dict[str, Tensor]) -> Errors:
        if gradients.keys() != self.gradients.keys():
            return Errors(abs(loss - self.loss) / abs(self.loss), float("inf"))
        off = sum((grad.double() - self.gradients[name]).square().sum().item() for name, grad in gradients.items())
        size = sum(exact.double().square().sum().item() for exact in self.gradients.values())
        return Errors(abs(loss - self.loss) / abs(self.loss), (off / size) ** 0.5)

    def holds(self, errors: Errors, dtype: torch.dtype) -> bool:
        plain, floor = self.plain[dtype], FLOOR[dtype]
        return errors.loss <= 2 * plain.loss + floor and errors.gradient <= 2 * plain.gradient + floor


def _naive(model, imgs: Tensor, noise: Tensor, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch, slice by slice: every image masks as many patches, so the mean of means is it."""
    total = 0.0
    for part, part_noise in zip(imgs.split(SLICE), noise.split(SLICE), strict=True):
        with torch.autocast(imgs.device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = model(part, MASK_RATIO, part_noise)[0] * (len(part) / len(imgs))
        loss.backward()
        total += loss.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return total, gradients
