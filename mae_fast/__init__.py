"""mae_fast: the fastest trustworthy way to pretrain a Masked Autoencoder (He et al. 2022)."""

from mae_fast import reference
from mae_fast.checkpoint import load_pretrained
from mae_fast.model import (
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
from mae_fast.ops import backends

__all__ = [
    "MaskedAutoencoderViT",
    "backends",
    "load_pretrained",
    "mae_vit_base_patch16",
    "mae_vit_base_patch16_dec512d8b",
    "mae_vit_huge_patch14",
    "mae_vit_huge_patch14_dec512d8b",
    "mae_vit_large_patch16",
    "mae_vit_large_patch16_dec512d8b",
    "mae_vit_small_patch16",
    "mae_vit_small_patch16_dec512d8b",
    "reference",
]
