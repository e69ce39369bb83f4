"""The optimizer and the learning rate of a step."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mae_fast.recipe import Schedule
from mae_fast.train.parallel import spread


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


def own_optimizers(loss: nn.Module) -> list[torch.optim.Optimizer]:
    """Those that parts of a loss have for their own parameters, in an attribute `optimizer`."""
    found = (getattr(module, "optimizer", None) for module in loss.modules())
    return [optimizer for optimizer in found if isinstance(optimizer, torch.optim.Optimizer)]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def check_update(clip_grad: float | None, *optimizers: torch.optim.Optimizer) -> None:
    """ValueError for what no update can be made with."""
    if clip_grad is not None and not 0 <= clip_grad < math.inf:
        raise ValueError(f"clip_grad: expected the largest norm of the gradient, at least 0, or None; got {clip_grad}")
    if not all(optimizer.defaults.get("fused") for optimizer in optimizers):
        raise ValueError(
            "optimizer: expected a fused one, as mae_fast.make_optimizer makes; others cannot skip a step without "
            "waiting for the device"
        )


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """load_state_dict that keeps the fused kernels, also from a checkpoint written without them."""
    # Set before load_state_dict: PyTorch places `step` on the device only for fused optimizers.
    groups = [group | {"fused": True, "foreach": None} for group in state["param_groups"]]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: spread(values, dict.fromkeys(values, parameters[index])) if index < len(parameters) else values
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": moments, "param_groups": groups})


def set_lr(optimizer: torch.optim.Optimizer, lr: float | Tensor) -> None:
    """lr times each group's lr_scale, where it has one. A tensor (see `capturable`): float32, rounded as that is."""
    for group in optimizer.param_groups:
        scale = group.get("lr_scale", 1.0)
        group["lr"] = lr if scale == 1 else lr * scale


def begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zeros where the momentum of SGD has not begun, which gives the numbers of its own beginning, if dampening is 0.

    Its own is a first step unlike the others, which leaves memory that was never written where found_inf skips it.
    """
    for group in optimizer.param_groups:
        if group.get("momentum") and not group.get("dampening", True):
            for p in group["params"]:
                if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                    optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


@contextlib.contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Inside, a CUDA graph may capture step() with an lr that is a tensor; then the groups hold what they held before.

    So neither comes into a file. Adam refuses a capture without the flag (_accelerator_graph_capture_health_check of
    torch.optim.Optimizer) and, if fused, does the same with it. SGD has no such flag and asks for none.
    """
    before = [dict(group) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, held in zip(optimizer.param_groups, before, strict=True):
            group.clear()
            group.update(held)


def fixed_settings(optimizer: torch.optim.Optimizer) -> list[dict]:
    """Of each group what `capturable` does not let change: betas, weight decay, lr_scale and the like."""
    names = [*(optimizer.defaults.keys() - {"lr", "capturable"}), "lr_scale"]
    return [{name: group.get(name) for name in names} for group in optimizer.param_groups]


def lr_at(epoch: float, schedule: Schedule, losses: Sequence[float] = ()) -> float:
    """Learning rate at a fractional epoch: linear warmup, then half a cosine, steps, or a plateau.

    schedule: with its absolute lr. losses: the mean loss of each finished epoch, for the plateau. Pure, so that a
    resumed run cannot drift from an uninterrupted one.
    """
    lr, min_lr, warmup = schedule.lr, schedule.min_lr, schedule.warmup_epochs
    if epoch < warmup:
        return lr * epoch / warmup
    after = epoch - warmup
    if schedule.sched == "cosine":
        progress = after / (schedule.epochs - warmup)
        return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))
    if schedule.sched == "step":
        drops = int(after / schedule.decay_epochs)
    else:
        drops = _plateaus(losses, schedule.patience_epochs)
    return max(min_lr, lr * schedule.decay_rate**drops)


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
