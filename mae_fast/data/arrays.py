"""Batches of arrays, which no image library takes: windows cut out, resized by torch in float32, mirrored."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mae_fast.data.plan import Plan, Planner


def render_arrays(plan: Plan, planner: Planner, size: tuple[int, int]) -> Tensor | None:
    """A batch as Pixels.batch makes it; None where a picture of the plan proves bad, which the planner then knows."""
    images = torch.empty(len(plan.indices), planner.pixels.channels, *size)
    for slot, index in enumerate(plan.indices):
        array = planner.decode(int(index))
        if array is None:
            return None
        top, left, height, width = plan.windows[slot].tolist()
        window = array[:, top : top + height, left : left + width]
        height, width, top, left = (*size, 0, 0) if plan.fit is None else plan.fit[slot].tolist()
        image = resized(window, (height, width))[:, top : top + size[0], left : left + size[1]]
        images[slot] = image.flip(-1) if plan.flip[slot] else image
    return planner.pixels.batch(images)


def resized(array: np.ndarray, size: tuple[int, int]) -> Tensor:
    """(C, H, W) of any type -> float32 (C, *size), bicubic with antialiasing."""
    values = torch.from_numpy(np.ascontiguousarray(array, np.float32))[None]
    return F.interpolate(values, size, mode="bicubic", antialias=True)[0]
