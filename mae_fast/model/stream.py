"""The residual stream of a Transformer, and the norm that adds a branch to it."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.model.linear import is_plain
from mae_fast.model.precision import compute_dtype


class Stream(NamedTuple):
    """The residual stream x (B, N, D), and a branch scale (y + bias) that is yet to be added to it.

    y: (B, N, D); bias: (D,), None for 0; scale: float32 (B,), what drop path makes of each image's branch, None for 1.
    Blocks hand it on like this, so that every addition is made in the pass of the norm after it.
    """

    x: Tensor
    y: Tensor | None = None
    bias: Tensor | None = None
    scale: Tensor | None = None

    def sum(self) -> Tensor:
        if self.y is None:
            return self.x
        branch = self.y if self.bias is None else self.y + self.bias
        branch = branch if self.scale is None else branch * self.scale[:, None, None]
        return (self.x + branch).to(torch.promote_types(self.x.dtype, self.y.dtype))


def add_norm(stream: Stream, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """-> the stream's sum, and its norm in the type that the product after it computes in."""
    if is_plain(norm, nn.LayerNorm) and norm.bias is not None:
        dtype = compute_dtype(stream.x.device, stream.x.dtype)
        x, y, bias, scale = stream
        return ops.add_layer_norm(x, y, bias, norm.weight, norm.bias, norm.eps, dtype, scale)
    x = stream.sum()
    return x, norm(x)
