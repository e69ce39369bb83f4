"""The matrix products of a training step, from the model's dimensions alone, and their floating-point operations.

An addition and a multiplication are two operations; nothing but matrix products is counted. A product (M, K) x (K, N)
of the forward pass has two of the same size in the backward pass: the gradient of its left factor, which the patch
embedding alone does without, since nobody asks for the image's, and the gradient of its right factor.
"""

from dataclasses import dataclass

from mae_fast.config import Preset


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
        """Of the forward and the backward pass, over all heads and layers."""
        return 2 * self.M * self.K * self.N * self.heads * self.layers * (2 + self.left_gradient)


def products(
    preset: Preset, batch: int, *, img_size: int = 224, mask_ratio: float = 0.75, naive: bool = False
) -> list[Product]:
    """The products of one step on `batch` RGB images of img_size pixels.

    naive: of the published model, which embeds every patch and predicts every token. Otherwise those of
    `training_loss`, which embeds what is kept and predicts what is masked, and so needs no more of the last block.
    """
    p, D, d = preset.patch_size, preset.embed_dim, preset.decoder_embed_dim
    L, P = (img_size // p) ** 2, 3 * p * p
    keep = int(L * (1 - mask_ratio))
    embedded, predicted = (L, 1 + L) if naive else (keep, L - keep)
    decoder = 1 + L, d, preset.decoder_num_heads, preset.mlp_ratio
    return [
        Product("patch_embed", batch * embedded, P, D, left_gradient=False),
        *_blocks("encoder", batch, 1 + keep, D, preset.num_heads, preset.mlp_ratio, preset.depth),
        Product("decoder_embed", batch * (1 + keep), D, d),
        *_blocks("decoder", batch, *decoder, preset.decoder_depth - 1),
        *_blocks("last decoder", batch, *decoder, 1, wanted=predicted),
        Product("decoder_pred", batch * predicted, d, P),
    ]


def _blocks(
    where: str, batch: int, N: int, D: int, heads: int, mlp_ratio: float, layers: int, wanted: int | None = None
) -> list[Product]:
    """wanted: the tokens of each image that anything after the attention needs; all where it is None."""
    rows, hidden, Dh = batch * (wanted or N), int(D * mlp_ratio), D // heads
    return [
        Product(f"{where} qkv", batch * N, D, 3 * D, layers=layers),
        Product(f"{where} scores", N, Dh, N, heads=batch * heads, layers=layers),
        Product(f"{where} mix", N, N, Dh, heads=batch * heads, layers=layers),
        Product(f"{where} proj", rows, D, D, layers=layers),
        Product(f"{where} fc1", rows, D, hidden, layers=layers),
        Product(f"{where} fc2", rows, hidden, D, layers=layers),
    ]


def step_flops(preset: Preset, batch: int = 1, **shape) -> int:
    """Model FLOPs of one training step, the same for every implementation: those of the published model."""
    return sum(product.flops for product in products(preset, batch, naive=True, **shape))
