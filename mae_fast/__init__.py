"""mae_fast: the fastest trustworthy way to pretrain a Masked Autoencoder (He et al. 2022)."""

from mae_fast import hf, reference
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
from mae_fast.packed_qkv import fuse_attention, unfuse_attention

__all__ = [
    "MaskedAutoencoderViT",
    "backends",
    "fuse_attention",
    "hf",
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
    "unfuse_attention",
]
