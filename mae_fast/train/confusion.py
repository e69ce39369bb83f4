"""The confusion matrix: which class is taken for which."""

import textwrap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mae_fast.files.atomic import write_atomic

NAMED = 40  # classes up to which their names fit beside the matrix
COUNTED = 20  # and up to which the counts fit inside of it
WORST = 20  # pairs listed where they do not


def confusion_matrix(scores: Tensor, labels: Tensor) -> Tensor:
    """int64 (classes, classes): pictures of the class of a row that are taken for the class of a column, the one of the
    highest of the scores (N, classes)."""
    classes = scores.shape[1]
    return torch.bincount(labels * classes + scores.argmax(1), minlength=classes**2).view(classes, classes)


def most_confused(matrix: Tensor, count: int = WORST) -> list[tuple[int, int, int, float]]:
    """(true class, class it is taken for, pictures, share of the true class's pictures), the most pictures first."""
    wrong = matrix.clone().fill_diagonal_(0)
    values, places = wrong.flatten().topk(min(count, wrong.numel()))
    totals, classes = matrix.sum(1), len(matrix)
    pairs = [
        (place // classes, place % classes, value)
        for value, place in zip(values.tolist(), places.tolist(), strict=True)
    ]
    return [(row, column, value, value / totals[row].item()) for row, column, value in pairs if value]


def draw_confusion(matrix: Tensor, classes: list[str], out: str | Path, note: str = "") -> None:
    """Write a PNG: rows the true class, columns the prediction, shades the share of the row.

    matrix: int64 (classes, classes) of counts. Of many classes, whose names do not fit, the most confused pairs are
    listed beside it.
    """
    from matplotlib.figure import Figure

    matrix = matrix.cpu()
    shares, named = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).numpy(), len(classes) <= NAMED
    side = 2 + 0.3 * min(len(classes), NAMED)
    figure = Figure(figsize=(side + (1 if named else 5), side), layout="constrained")
    axis, *beside = np.atleast_1d(figure.subplots(1, 1 if named else 2))
    image = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=axis, shrink=0.8, label="share of the true class")
    axis.set(xlabel="predicted", ylabel="true")
    if named:
        places = np.arange(len(classes))
        axis.set_xticks(places, classes, rotation=90, fontsize=7)
        axis.set_yticks(places, classes, fontsize=7)
    if len(classes) <= COUNTED:
        for (row, column), count in np.ndenumerate(matrix.numpy()):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axis.text(column, row, str(count), ha="center", va="center", fontsize=6, color=colour)
    for list_axis in beside:
        lines = [f"{count:5d}  {share:4.0%}  {classes[row][:30]} taken for {classes[column][:30]}"
                 for row, column, count, share in most_confused(matrix)]  # fmt: skip
        list_axis.axis("off")
        list_axis.set_title("most confused", fontsize=9, loc="left")
        list_axis.text(0, 1, "\n".join(lines), va="top", fontsize=7, family="monospace", transform=list_axis.transAxes)
    width = int(12 * figure.get_figwidth())  # letters of 8 points that fit
    figure.supxlabel("\n".join(textwrap.wrap(note, width)), fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))
