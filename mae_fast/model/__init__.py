"""The networks: the Masked Autoencoder, the classifier, and the blocks that they share."""

from mae_fast.model.blocks import Attention, Block, Mlp, PatchEmbed
from mae_fast.model.mae import (
    MaskedAutoencoderViT,
    mae_vit_base_patch16,
    mae_vit_base_patch16_dec512d8b,
    mae_vit_huge_patch14,
    mae_vit_huge_patch14_dec512d8b,
    mae_vit_large_patch16,
    mae_vit_large_patch16_dec512d8b,
    mae_vit_small_patch16,
    mae_vit_small_patch16_dec512d8b,
)

__all__ = [
    "Attention",
    "Block",
    "MaskedAutoencoderViT",
    "Mlp",
    "PatchEmbed",
    "mae_vit_base_patch16",
    "mae_vit_base_patch16_dec512d8b",
    "mae_vit_huge_patch14",
    "mae_vit_huge_patch14_dec512d8b",
    "mae_vit_large_patch16",
    "mae_vit_large_patch16_dec512d8b",
    "mae_vit_small_patch16",
    "mae_vit_small_patch16_dec512d8b",
]
