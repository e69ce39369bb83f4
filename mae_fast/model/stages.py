"""The shapes of a training step: how many rows, how wide, through how many heads, in every block.

One source for floating-point operations, bytes, memory and the cases of the ops.
"""

from dataclasses import dataclass

from torch import nn

from mae_fast.config import Preset


@dataclass(frozen=True)
class Stage:
    """Equal blocks: `tokens` of each image attend to one another, `rows` of them go on after the attention."""

    name: str
    tokens: int
    rows: int
    width: int
    hidden: int  # of the MLP
    heads: int
    layers: int


@dataclass(frozen=True)
class Stages:
    """A training step on images of L patches, of P numbers each, `visible` of which are kept.

    A decoder's last block ends in the masked patches alone, which are all that the loss reads.
    """

    L: int
    P: int
    mask_ratio: float
    visible: int
    encoder: Stage
    decoder: Stage  # but the last block
    last: Stage

    @property
    def masked(self) -> int:
        return self.L - self.visible

    @property
    def blocks(self) -> tuple[Stage, Stage, Stage]:
        return self.encoder, self.decoder, self.last


def of_preset(preset: Preset, img_size: int = 224, mask_ratio: float = 0.75, *, channels: int = 3) -> Stages:
    """The shapes of the model that a preset makes, on square images of img_size pixels."""
    p, D, d = preset.patch_size, preset.embed_dim, preset.decoder_embed_dim
    encoder = D, int(D * preset.mlp_ratio), preset.num_heads, preset.depth
    decoder = d, int(d * preset.mlp_ratio), preset.decoder_num_heads, preset.decoder_depth
    return _stages((img_size // p) ** 2, channels * p * p, mask_ratio, encoder, decoder)


def of_model(model: nn.Module, mask_ratio: float = 0.75) -> Stages:
    """The shapes of a MaskedAutoencoderViT, on any device."""
    sizes = [
        (block.attn.proj.in_features, block.mlp.fc1.out_features, block.attn.num_heads, len(blocks))
        for blocks in (model.blocks, model.decoder_blocks)
        for block in blocks[:1]
    ]
    return _stages(model.patch_embed.num_patches, model.decoder_pred.out_features, mask_ratio, *sizes)


def _stages(L: int, P: int, mask_ratio: float, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> Stages:
    """The shapes of a model. encoder, decoder: width, hidden, heads, layers."""
    visible = int(L * (1 - mask_ratio))
    *sizes, layers = decoder
    return Stages(
        L, P, mask_ratio, visible,
        Stage("encoder", 1 + visible, 1 + visible, *encoder),
        Stage("decoder", 1 + L, 1 + L, *sizes, layers - 1),
        Stage("last decoder", 1 + L, L - visible, *sizes, 1),
    )  # fmt: skip
