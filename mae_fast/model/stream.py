"""The residual stream of a Transformer, and the norm that adds a branch to it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.model.linear import is_plain
from mae_fast.model.precision import compute_dtype


class Stream(NamedTuple):
    """The residual stream x (B, N, D), and a branch y (B, N, D) + bias (D,) that is yet to be added to it.

    Blocks hand it on like this, so that every addition is made in the pass of the norm after it.
    """

    x: Tensor
    y: Tensor | None = None
    bias: Tensor | None = None

    def sum(self) -> Tensor:
        if self.y is None:
            return self.x
        branch = self.y if self.bias is None else self.y + self.bias
        return (self.x + branch).to(torch.promote_types(self.x.dtype, self.y.dtype))


def add_norm(stream: Stream, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """-> the stream's sum, and its norm in the type that the product after it computes in."""
    if is_plain(norm, nn.LayerNorm) and norm.bias is not None:
        dtype = compute_dtype(stream.x.device, stream.x.dtype)
        return ops.add_layer_norm(*stream, norm.weight, norm.bias, norm.eps, dtype)
    x = stream.sum()
    return x, norm(x)
