"""The weights of a model of some channels, for one of another number of them."""

import logging
import math
from pathlib import Path

from torch import Tensor

from mae_fast.files.layouts.official import State

logger = logging.getLogger(__name__)


def with_channels(state: State, channels: int, path: str | Path) -> State:
    """An official state -> the same for pictures of so many channels; which is logged, with the path it came from.

    Patch embedding: for one channel the sum, so that a grey picture gives what it gave as equal channels; for more the
    channels repeated and scaled by old / new, so that the sums keep their size (timm's adapt_input_conv). Prediction of
    pixels: for one channel the mean, for more the channels repeated: each band is predicted as large as a colour was.
    """
    weight = state.get("patch_embed.proj.weight")  # (D, C, p, p)
    if weight is None or weight.dim() != 4 or weight.shape[1] == channels:
        return state
    old, p = weight.shape[1], weight.shape[2]
    embed = weight.sum(1, keepdim=True) if channels == 1 else _repeated(weight, 1, channels) * (old / channels)
    adapted = {"patch_embed.proj.weight": embed}
    for key in ("decoder_pred.weight", "decoder_pred.bias"):
        if key in state:  # (p * p * C, ...), the channel last
            rows = state[key].unflatten(0, (p * p, old))
            rows = rows.mean(1, keepdim=True) if channels == 1 else _repeated(rows, 1, channels)
            adapted[key] = rows.flatten(0, 1)
    how = (
        "summed, in the prediction averaged" if channels == 1 else f"repeated, in the embedding times {old}/{channels}"
    )
    logger.info("%s: weights of %d channels for %d: %s", path, old, channels, how)
    return state | adapted


def _repeated(x: Tensor, dim: int, count: int) -> Tensor:
    times = [1] * x.dim()
    times[dim] = math.ceil(count / x.shape[dim])
    return x.repeat(times).narrow(dim, 0, count).contiguous()
