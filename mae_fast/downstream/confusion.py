"""The confusion matrix: which class is taken for which."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae_fast.files.atomic import write_atomic

NAMED = 40  # classes up to which their names fit


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """int64 (classes, classes): pictures of the class of a row that are taken for the class of a column, the one of the
    highest of the scores (N, classes)."""
    classes = scores.shape[1]
    return torch.bincount(labels * classes + scores.argmax(1), minlength=classes**2).view(classes, classes)


def draw_confusion(matrix: Tensor, classes: list[str], out: str | Path, note: str = "") -> None:
    """Write a PNG: rows the true class, columns the prediction, shades the share of the row."""
    from matplotlib.figure import Figure

    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).cpu().numpy()
    named = len(classes) <= NAMED
    side = 2 + 0.3 * min(len(classes), NAMED)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, shrink=0.8, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if named:
        places = np.arange(len(classes))
        axis.set_xticks(places, classes, rotation=90, fontsize=7)
        axis.set_yticks(places, classes, fontsize=7)
    if len(classes) <= 20:
        for (row, column), count in np.ndenumerate(matrix.cpu().numpy()):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=6, color=colour)
    figure.supxlabel(note, fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))
