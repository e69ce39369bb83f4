"""The float32 reference, plain autocast and the fast path trained side by side: their loss curves."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mae_fast import reference
from mae_fast.config import Preset
from mae_fast.data import make_loader, open_source
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.parity.model import MASK_RATIO, autocast
from mae_fast.recipe import Schedule
from mae_fast.train.optim import lr_at, make_optimizer, set_lr

WARMUP = 0.2  # share of the steps


@dataclass(frozen=True)
class Training:
    """What all sides train on, and how the fast path does. images: a folder; without one, smooth random pictures.

    dtype: of the fast path's products, and of plain autocast's. stream: of the fast path; None leaves it to the model.
    """

    preset: Preset
    img_size: int
    steps: int
    batch: int
    dtype: torch.dtype
    device: str
    compiled: bool = False
    stream: torch.dtype | None = None
    images: str | None = None
    lr: float = 1e-3  # high enough for the curve to fall


def train(how: Training, seed: int = 0, with_autocast: bool = False) -> dict[str, list[float]]:
    """{side: losses} with the same images, masks, weights and optimizer: "plain" in float32, "autocast", "fast"."""
    kwargs = how.preset.kwargs() | {"img_size": how.img_size, "norm_pix_loss": True}
    torch.manual_seed(seed)
    plain, fast = reference.MaskedAutoencoderViT(**kwargs), MaskedAutoencoderViT(**kwargs)
    models: dict[str, nn.Module] = {"plain": plain}
    if with_autocast:
        models["autocast"] = reference.MaskedAutoencoderViT(**kwargs)
    models["fast"], fast.stream = fast, how.stream
    for model in models.values():
        model.load_state_dict(plain.state_dict())
        model.to(how.device)
    losses_of = {name: model.training_loss for name, model in models.items()}
    if how.compiled:
        losses_of["fast"] = torch.compile(fast.training_loss, dynamic=False)
    optimizers = {name: make_optimizer(model, "adamw", how.lr, 0.05) for name, model in models.items()}
    schedule = Schedule(lr=how.lr, warmup_epochs=WARMUP * how.steps, epochs=how.steps)  # a step for an epoch
    curves = {name: [] for name in models}
    pictures = _photographs(how, seed) if how.images else _smooth(how)
    with tqdm(total=how.steps, unit=" steps", leave=False) as bar:
        for step, imgs in enumerate(islice(pictures, how.steps)):
            noise = torch.rand(how.batch, fast.patch_embed.num_patches, device=how.device)
            for name, optimizer in optimizers.items():
                set_lr(optimizer, lr_at(step, schedule))
                with autocast(imgs.device, torch.float32 if name == "plain" else how.dtype):
                    loss = losses_of[name](imgs, MASK_RATIO, noise)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                curves[name].append(loss.item())
            bar.update()
    return curves


def _photographs(how: Training, seed: int) -> Iterator[Tensor]:
    loader = make_loader(open_source(how.images), how.batch, how.img_size, seed=seed, device=how.device)
    for epoch in count():
        for imgs, _ in loader.epoch(epoch):
            yield imgs


def _smooth(how: Training) -> Iterator[Tensor]:
    """Images in which neighbouring patches are alike, so that there is something to learn."""
    while True:
        coarse = torch.randn(how.batch, 3, 6, 6, device=how.device)
        yield torch.nn.functional.interpolate(coarse, (how.img_size, how.img_size), mode="bicubic")
