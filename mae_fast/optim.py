"""The optimizer and the learning rate of a step."""

import math
from argparse import Namespace
from collections.abc import Sequence

import torch
from torch import nn


def param_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """No decay on biases and norms (every one-dimensional parameter), then the rest; the official order of groups."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    no_decay = [p for name, p in named if p.ndim == 1 or name.endswith(".bias")]
    decay = [p for name, p in named if not (p.ndim == 1 or name.endswith(".bias"))]
    return [{"params": no_decay, "weight_decay": 0.0}, {"params": decay, "weight_decay": weight_decay}]


def make_optimizer(model: nn.Module, name: str, lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with betas (0.9, 0.95) (paper, table 8) or SGD with momentum 0.9.

    Both fused: one pass over the weights, and `optimizer.found_inf` makes a step do nothing without asking the device.
    """
    for setting, value in {"lr": lr, "weight_decay": weight_decay}.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{setting}: expected a finite number, at least 0; got {value}")
    groups = param_groups(model, weight_decay)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
    raise ValueError(f"opt: expected adamw or sgd, got {name}")


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """load_state_dict that keeps the fused kernels, also from a checkpoint written without them."""
    # Said before it is loaded: by it PyTorch decides whether the counts of steps go to the device, for fused kernels.
    groups = [group | {"fused": True, "foreach": None} for group in state["param_groups"]]
    optimizer.load_state_dict(state | {"param_groups": groups})


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def lr_at(epoch: float, args: Namespace, losses: Sequence[float] = ()) -> float:
    """Learning rate at a fractional epoch: linear warmup, then half a cosine, steps, or a plateau.

    args: lr, min_lr, warmup_epochs, epochs, sched, decay_epochs, decay_rate, patience_epochs. losses: the mean loss of
    each finished epoch, for the plateau. Pure, so that a resumed run cannot drift from an uninterrupted one.
    """
    if epoch < args.warmup_epochs:
        return args.lr * epoch / args.warmup_epochs
    after = epoch - args.warmup_epochs
    if args.sched == "cosine":
        progress = after / (args.epochs - args.warmup_epochs)
        return args.min_lr + (args.lr - args.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    drops = int(after / args.decay_epochs) if args.sched == "step" else _plateaus(losses, args.patience_epochs)
    return max(args.min_lr, args.lr * args.decay_rate**drops)


def _plateaus(losses: Sequence[float], patience: int) -> int:
    """How often the loss went more than `patience` epochs without a new best (by 0.01 %)."""
    best, waited, drops = math.inf, 0, 0
    for loss in losses:
        if loss < best * (1 - 1e-4):
            best, waited = loss, 0
        else:
            waited += 1
        if waited > patience:
            drops, waited = drops + 1, 0
    return drops
