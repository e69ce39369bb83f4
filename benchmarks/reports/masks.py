"""The picture of docs/losses_and_masks.md: three masks of a photograph, by name.

python -m benchmarks.reports.masks docs/masks.png
"""

import sys

import numpy as np
import torch
from PIL import Image

from mae_fast.config import MASKS
from mae_fast.model import masking

GRID, PATCH, EACH, GAP = 14, 8, 3, 6
GREY = 128


def draw(picture: np.ndarray, ratio: float = 0.75) -> Image.Image:
    """uint8 (112, 112, 3) -> a row for each mask, a column for each of EACH samples."""
    side = GRID * PATCH
    rows = []
    for mask in MASKS:
        noise = masking.by_torch(mask)(EACH, (GRID, GRID), torch.device("cpu"))
        removed = masking.draw_mask(noise, EACH, (GRID, GRID), torch.device("cpu"), ratio)[2].view(EACH, GRID, GRID)
        removed = removed.bool().numpy().repeat(PATCH, 1).repeat(PATCH, 2)[..., None]
        rows.append([np.where(one, GREY, picture) for one in removed])
    sheet = np.full((len(MASKS) * (side + GAP) - GAP, EACH * (side + GAP) - GAP, 3), 255, np.uint8)
    for i, row in enumerate(rows):
        for j, one in enumerate(row):
            sheet[i * (side + GAP) :, j * (side + GAP) :][:side, :side] = one
    return Image.fromarray(sheet)


def main(out: str) -> None:
    from sklearn.datasets import load_sample_image

    torch.manual_seed(0)
    photo = Image.fromarray(load_sample_image("flower.jpg")).crop((160, 20, 560, 420))
    draw(np.asarray(photo.resize((GRID * PATCH,) * 2, Image.Resampling.BICUBIC))).quantize(96).save(out, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
