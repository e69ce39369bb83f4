"""The matrix products of a training step, from the model's dimensions alone, and their floating-point operations.

An addition and a multiplication are two operations; nothing but matrix products is counted. A product (M, K) x (K, N)
of the forward pass has two of the same size in the backward pass: the gradient of its left factor, which the patch
embedding alone does without, since images need no gradient, and the gradient of its right factor.
"""

from dataclasses import dataclass, replace

from mae_fast.config import Preset
from mae_fast.model import stages
from mae_fast.model.stages import Stage


@dataclass(frozen=True)
class Product:
    """One product of the forward pass: (M, K) x (K, N), in `heads` independent copies, in each of `layers` layers."""

    name: str
    M: int
    K: int
    N: int
    heads: int = 1  # images times heads, for attention
    layers: int = 1
    left_gradient: bool = True

    @property
    def attention(self) -> bool:
        return self.heads > 1

    @property
    def flops(self) -> int:
        """FLOPs of the forward and the backward pass, over all heads and layers."""
        return 2 * self.M * self.K * self.N * self.heads * self.layers * (2 + self.left_gradient)


def products(
    preset: Preset, batch: int, *, img_size: int = 224, mask_ratio: float = 0.75, naive: bool = False
) -> list[Product]:
    """The products of one step on `batch` RGB images of img_size pixels.

    naive: of the published model, which embeds every patch and predicts every token. Otherwise those of
    `training_loss`, which embeds what is kept and predicts what is masked, and so needs no more of the last block.
    """
    step = stages.of_preset(preset, img_size, mask_ratio)
    embedded, predicted = (step.L, 1 + step.L) if naive else (step.visible, step.masked)
    encoder, decoder = step.encoder, step.decoder
    last = replace(step.last, rows=predicted)
    blocks = {stage.name: _block(stage, batch) for stage in (encoder, decoder, last)}
    return [
        Product("patch_embed", batch * embedded, step.P, encoder.width, left_gradient=False),
        *blocks["encoder"],
        Product("decoder_embed", batch * encoder.rows, encoder.width, decoder.width),
        *blocks["decoder"],
        *blocks["last decoder"],
        Product("decoder_pred", batch * predicted, decoder.width, step.P),
    ]


def _block(stage: Stage, batch: int) -> list[Product]:
    N, rows, D, hidden = stage.tokens, batch * stage.rows, stage.width, stage.hidden
    heads, Dh = batch * stage.heads, D // stage.heads
    products = [
        Product("qkv", batch * N, D, 3 * D),
        Product("scores", N, Dh, N, heads=heads),
        Product("mix", N, N, Dh, heads=heads),
        Product("proj", rows, D, D),
        Product("fc1", rows, D, hidden),
        Product("fc2", rows, hidden, D),
    ]
    return [replace(product, name=f"{stage.name} {product.name}", layers=stage.layers) for product in products]


def step_flops(preset: Preset, batch: int = 1, **shape) -> int:
    """Model FLOPs of one training step, the same for every implementation: those of the published model."""
    return sum(product.flops for product in products(preset, batch, naive=True, **shape))
