"""mae_fast: the fastest trustworthy way to pretrain a Masked Autoencoder (He et al. 2022)."""

import sys
from importlib import import_module

from mae_fast import reference
from mae_fast.dropin import hf
from mae_fast.dropin.packed_qkv import fuse_attention, unfuse_attention
from mae_fast.dropin.tutorial import (
    MAE,
    MAETrainer,
    create_mae_dataloaders,
    get_augmentation_transforms,
    get_mae_transforms,
    load_pretrained_mae,
    visualize_mae_reconstruction,
)
from mae_fast.files.checkpoint import load_pretrained
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
from mae_fast.train.losses import MAELoss
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep

# Documented names of modules, shorter than those of their places: mae_fast.hf is mae_fast.dropin.hf.
SHORT = {
    "atomic": "files.atomic",
    "attention": "model.attention",
    "checkpoint": "files.checkpoint",
    "convert": "files.convert",
    "distributed": "train.distributed",
    "heap": "train.heap",
    "hf": "dropin.hf",
    "hub": "files.hub",
    "interrupt": "train.interrupt",
    "layouts": "files.layouts",
    "memory": "train.batch_size",
    "models_mae": "dropin.models_mae",
    "models_vit": "dropin.models_vit",
    "optim": "train.optim",
    "packed_qkv": "dropin.packed_qkv",
    "patching": "dropin.forward_swap",
    "positions": "model.positions",
    "progress": "train.progress",
    "report": "train.report",
    "resume": "train.run_state",
    "step": "train.step",
    "tutorial": "dropin.tutorial",
    "visualize": "downstream.reconstruct",
}
for _short, _place in SHORT.items():
    globals()[_short] = sys.modules[f"mae_fast.{_short}"] = import_module(f"mae_fast.{_place}")

__all__ = [
    "MAE",
    "MAELoss",
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
