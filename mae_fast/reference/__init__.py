"""The oracle: every op and the whole Masked Autoencoder in naive PyTorch, written for reading.

Nothing here is fast and nothing here imports the fast code.
"""

from mae_fast.config import IMAGENET_MEAN, IMAGENET_STD
from mae_fast.reference.model import Attention, Block, MaskedAutoencoderViT, sincos_2d
from mae_fast.reference.ops import (
    add_layer_norm,
    attention,
    bias_gelu,
    gather_patches,
    masked_mse,
    masked_residual,
    masked_smooth_l1,
    normalize,
    patchify,
    random_masking,
    take,
    unpatchify,
    unshuffle,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Attention",
    "Block",
    "MaskedAutoencoderViT",
    "add_layer_norm",
    "attention",
    "bias_gelu",
    "gather_patches",
    "masked_mse",
    "masked_residual",
    "masked_smooth_l1",
    "normalize",
    "patchify",
    "random_masking",
    "sincos_2d",
    "take",
    "unpatchify",
    "unshuffle",
]
