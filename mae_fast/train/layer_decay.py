"""Layer-wise decay of the learning rate (Clark et al. 2020; Bao et al. 2022), as the official finetuning has it."""

import torch

from mae_fast.model.vit import VisionTransformer


def layer_of(name: str, depth: int) -> int:
    """0: patches, positions and class token; 1 to depth: that block; depth + 1: what comes after the blocks."""
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        return 0
    return int(name.split(".")[1]) + 1 if name.startswith("blocks.") else depth + 1


def decayed_groups(model: VisionTransformer, weight_decay: float, layer_decay: float) -> list[dict]:
    """Groups of an optimizer with lr_scale = layer_decay ^ (layers above), in the order of the official code.

    No weight decay on vectors, and on what model.no_weight_decay names.
    """
    depth, groups = len(model.blocks), {}
    for name, p in model.named_parameters():
        if not p.requires_grad:
            continue
        layer, decays = layer_of(name, depth), p.ndim > 1 and name not in model.no_weight_decay()
        scale, decay = layer_decay ** (depth + 1 - layer), weight_decay if decays else 0.0
        group = groups.setdefault((layer, decays), {"lr_scale": scale, "weight_decay": decay, "params": []})
        group["params"].append(p)
    return list(groups.values())


def finetuning_optimizer(
    model: VisionTransformer, lr: float, weight_decay: float, layer_decay: float
) -> torch.optim.AdamW:
    """Fused AdamW with betas (0.9, 0.999) (paper, table 9)."""
    return torch.optim.AdamW(decayed_groups(model, weight_decay, layer_decay), lr=lr, fused=True)
