"""Which patches are kept, by noise: the mask of Masked Autoencoders."""

import torch
from torch import Tensor
from torch.library import define, register_fake

from mae_fast import reference
from mae_fast.ops.checks import describe
from mae_fast.ops.library import register

define("mae_fast::random_masking", "(Tensor noise, SymInt len_keep) -> (Tensor, Tensor, Tensor)")


@register_fake("mae_fast::random_masking")
def _fake(noise, len_keep):
    ids = noise.new_empty(noise.shape, dtype=torch.int64)
    return ids, torch.empty_like(ids), noise.new_empty(noise.shape, dtype=torch.float32)


register("random_masking", reference.random_masking, triton="random_masking")


def random_masking(noise: Tensor, len_keep: int) -> tuple[Tensor, Tensor, Tensor]:
    """Keep the len_keep patches of lowest noise: -> ids_shuffle, ids_restore (int64) and mask (float32), each (B, L).

    noise: float (B, L). ids_shuffle lists the patches by noise, ties by index; ids_restore is its inverse; mask is 1
    where a patch is removed. No gradient. Source: He et al. 2022, section 3, "Simple implementation".
    """
    if noise.dim() != 2 or not noise.is_floating_point():
        raise ValueError(f"noise: expected float (B, L); got {describe(noise)}")
    if not 0 <= len_keep <= noise.shape[1]:
        raise ValueError(f"len_keep: expected 0..{noise.shape[1]}, of the patches of noise; got {len_keep}")
    return torch.ops.mae_fast.random_masking(noise.detach(), len_keep)
