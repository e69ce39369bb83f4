"""Linear layers whose product and bias are wanted apart."""

import torch.nn.functional as F
from torch import Tensor, nn


def is_plain(module: nn.Module, cls: type) -> bool:
    """Whether the module is just what it says, nothing wrapped, hooked or compiled: its parts may be used alone."""
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) is cls and not changed and module._compiled_call_impl is None


def split_linear(linear: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """-> the product and the bias apart, for the op after it to add; all of it and None where the layer is hooked."""
    if is_plain(linear, nn.Linear):
        return F.linear(x, linear.weight), linear.bias
    return linear(x), None
