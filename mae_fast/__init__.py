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
from mae_fast.optim import make_optimizer
from mae_fast.packed_qkv import fuse_attention, unfuse_attention
from mae_fast.step import TrainingStep
from mae_fast.tutorial import (
    MAE,
    MAETrainer,
    create_mae_dataloaders,
    get_augmentation_transforms,
    get_mae_transforms,
    load_pretrained_mae,
    visualize_mae_reconstruction,
)

__all__ = [
    "MAE",
    "MAETrainer",
    "MaskedAutoencoderViT",
    "TrainingStep",
    "backends",
    "create_mae_dataloaders",
    "fuse_attention",
    "get_augmentation_transforms",
    "get_mae_transforms",
    "hf",
    "load_pretrained",
    "load_pretrained_mae",
    "mae_vit_base_patch16",
    "mae_vit_base_patch16_dec512d8b",
    "mae_vit_huge_patch14",
    "mae_vit_huge_patch14_dec512d8b",
    "mae_vit_large_patch16",
    "mae_vit_large_patch16_dec512d8b",
    "mae_vit_small_patch16",
    "mae_vit_small_patch16_dec512d8b",
    "make_optimizer",
    "reference",
    "unfuse_attention",
    "visualize_mae_reconstruction",
]
