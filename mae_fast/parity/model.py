"""The parity rule for a whole model: its loss, its predictions and the gradient of every parameter.

err(side) <= 2 err(naive PyTorch at the same precision) + a floor. Errors are relative to float64: |x - exact| /
|exact|, of each parameter's gradient alone and of all together. A side's masks must be those of `noise`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mae_fast import reference
from mae_fast.config import dtype_name
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.parity.rule import Row

FLOOR = {torch.float32: 1e-6, torch.bfloat16: 2e-3, torch.float16: 2.5e-4}
LOSS_SCALE = {torch.float16: 2.0**16}  # small gradients vanish in float16 without one
SLICE = {
    "cpu": 4,
    "cuda": 16,
}  # images that the reference takes at a time: in float64 a whole batch of Large would not fit
MASK_RATIO = 0.75


@dataclass(frozen=True)
class Errors:
    loss: float
    gradient: float  # of all parameters together
    parameters: dict[str, float] = field(repr=False)  # of each


class Gate:
    """The numbers of one batch in float64, and what error they allow at each precision.

    state, kwargs: weights and arguments of the model. imgs: float (B, C, H, W). noise: (B, L).
    """

    def __init__(self, state: dict, kwargs: dict, imgs: Tensor, noise: Tensor, dtypes=tuple(FLOOR)):
        self.imgs = imgs
        model = reference.MaskedAutoencoderViT(**kwargs).to(imgs.device)
        model.load_state_dict(state)
        plain = {dtype: _naive(model, imgs, noise, dtype) for dtype in dtypes}
        self.loss, gradients = _naive(model.double(), imgs.double(), noise, torch.float64)
        self.gradients = {name: grad.float() for name, grad in gradients.items()}
        self._sizes = {name: grad.norm().item() for name, grad in gradients.items()}
        self.plain = {dtype: self.errors(*numbers) for dtype, numbers in plain.items()}

    def errors(self, loss: float, gradients: dict[str, Tensor]) -> Errors:
        """Errors of a side's loss and gradients, by official key. Infinite where gradients are missing or too many."""
        off_loss = abs(loss - self.loss) / abs(self.loss)
        if gradients.keys() != self.gradients.keys():
            return Errors(off_loss, float("inf"), {})
        off = {name: (grad.double() - self.gradients[name]).norm().item() for name, grad in gradients.items()}
        together = sum(x**2 for x in off.values()) / sum(x**2 for x in self._sizes.values())
        return Errors(off_loss, together**0.5, {name: off[name] / (self._sizes[name] or 1.0) for name in off})

    def rows(self, errors: Errors, dtype: torch.dtype, what: str = "model") -> list[Row]:
        """Loss, whole gradient and each parameter's, ours beside plain PyTorch's at that dtype."""
        plain, name = self.plain[dtype], dtype_name(dtype)

        def row(result: str, error: float, theirs: float, floor: float) -> Row:
            return Row(what, name, result, error, theirs, 2 * theirs + floor)

        return [
            row("loss", errors.loss, plain.loss, FLOOR[dtype]),
            row("gradient", errors.gradient, plain.gradient, FLOOR[dtype]),
            *(
                row(f"gradient of {key}", error, plain.parameters[key], FLOOR[dtype])
                for key, error in errors.parameters.items()
            ),
        ]

    def holds(self, errors: Errors, dtype: torch.dtype) -> bool:
        return all(row.holds for row in self.rows(errors, dtype))


def _naive(model, imgs: Tensor, noise: Tensor, dtype: torch.dtype) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of a batch, slice by slice: all images mask equally many patches, so means can be averaged."""
    total, scale, size = 0.0, LOSS_SCALE.get(dtype, 1.0), SLICE[imgs.device.type]
    for part, part_noise in zip(imgs.split(size), noise.split(size), strict=True):
        with autocast(imgs.device, dtype):
            loss = model(part, MASK_RATIO, part_noise)[0] * (len(part) / len(imgs))
        (loss * scale).backward()
        total += loss.item()
    return total, _take_gradients(model, scale)


def _take_gradients(model, scale: float) -> dict[str, Tensor]:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return unscale(gradients, scale)


def unscale(gradients: dict[str, Tensor], scale: float) -> dict[str, Tensor]:
    """The same dict where the scale is 1: a copy of Large's gradients is 1.3 GB."""
    return gradients if scale == 1 else {name: grad / scale for name, grad in gradients.items()}


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Autocast to bfloat16 or float16; for wider types it does nothing."""
    narrow = dtype in (torch.bfloat16, torch.float16)
    return torch.autocast(device.type, dtype if narrow else None, enabled=narrow)


def check(model: MaskedAutoencoderViT, kwargs: dict, dtypes: list[torch.dtype], batch: int) -> list[Row]:
    """Rows for `training_loss` and for the predictions of `forward`, on fresh random images and masks.

    kwargs: what the model was made with, for the reference.
    """
    device, (height, width) = model.cls_token.device, model.patch_embed.img_size
    imgs = torch.randn(batch, model.in_chans, height, width, device=device)
    noise = torch.rand(batch, model.patch_embed.num_patches, device=device)
    state = model.state_dict()
    gate = Gate(state, kwargs, imgs, noise, dtypes)
    naive = reference.MaskedAutoencoderViT(**kwargs).to(device)
    naive.load_state_dict(state)
    rows = []
    for dtype in dtypes:
        scale = LOSS_SCALE.get(dtype, 1.0)
        with autocast(device, dtype):
            loss = model.training_loss(imgs, MASK_RATIO, noise)
        (loss * scale).backward()
        rows += gate.rows(gate.errors(loss.item(), _take_gradients(model, scale)), dtype)
        rows.append(_prediction(model, naive, imgs, noise, dtype))
    return rows


@torch.no_grad()
def _prediction(model, naive, imgs: Tensor, noise: Tensor, dtype: torch.dtype) -> Row:
    with autocast(imgs.device, dtype):
        ours, theirs = (m(imgs, MASK_RATIO, noise)[1].double() for m in (model, naive))
    exact = naive.double()(imgs.double(), MASK_RATIO, noise)[1]
    naive.float()
    error, plain = (((x - exact).norm() / exact.norm()).item() for x in (ours, theirs))
    name = dtype_name(dtype)
    return Row("model", name, "prediction", error, plain, 2 * plain + FLOOR[dtype])
