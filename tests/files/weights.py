"""A small model, and what conversions of it are held to."""

import torch

from mae_fast.files import layouts

TINY = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=2,
            decoder_num_heads=4, decoder_mlp_ratio=2.0, norm_pix_loss=True, mean=(0.5, 0.4, 0.3))  # fmt: skip


def bits(x):
    """The numbers as they lie in memory: NaN equals itself, 0 is not -0."""
    return x.contiguous().reshape(x.shape or 1).view(torch.uint8)


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(bits(a[k]), bits(b[k])) for k in a)


def without_decoder(state):
    return {key: value for key, value in state.items() if not layouts.is_decoder_key(key)}
