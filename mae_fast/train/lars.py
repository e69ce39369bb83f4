"""LARS (You et al. 2017) as the official linear probe has it."""

import torch


class LARS(torch.optim.Optimizer):
    """Momentum SGD whose step of each matrix is scaled to trust_coefficient of its norm, by the norm of its gradient.

        d = gradient + weight_decay p;  d *= trust_coefficient |p| / |d|;  mu = momentum mu + d;  p -= lr mu

    Vectors (biases, norms) take the gradient as it is: no decay, no scaling. Nothing asks the device for a number, and
    where `found_inf` is set and not 0, a step does nothing, as in PyTorch's fused optimizers.
    """

    _step_supports_amp_scaling = True  # to torch.amp.GradScaler: a step reads found_inf itself

    def __init__(
        self,
        params,
        lr: float = 0.0,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, trust_coefficient=trust_coefficient)
        super().__init__(params, defaults | {"fused": True})

    @torch.no_grad()
    def step(self, closure=None) -> None:
        found = getattr(self, "found_inf", None)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                step = p.grad
                if p.ndim > 1:
                    step = step.add(p, alpha=group["weight_decay"])
                    scale = group["trust_coefficient"] * p.norm() / step.norm()
                    step = step * torch.where((p.norm() > 0) & (step.norm() > 0), scale, 1.0)
                state = self.state[p]
                mu = state.setdefault("mu", torch.zeros_like(p))
                moved = mu * group["momentum"] + step
                updated = p - group["lr"] * moved
                if found is not None:
                    moved, updated = torch.where(found > 0, mu, moved), torch.where(found > 0, p, updated)
                mu.copy_(moved)
                p.copy_(updated)
