"""Reconstructions of pictures in files, drawn beside each other."""

from pathlib import Path

from torch import Tensor

from mae_fast.data import list_pictures, open_pictures
from mae_fast.files.atomic import write_atomic
from mae_fast.pixels import Pixels
from mae_fast.train.drawable import Reconstruction, drawable, reconstruct, stretched

__all__ = ["Reconstruction", "draw", "drawable", "load_images", "reconstruct", "stretched"]


def load_images(path: str | Path, size: tuple[int, int], pixels: Pixels, limit: int) -> tuple[list[str], Tensor]:
    """The first `limit` pictures of a folder, or one file, cut to (height, width): names, and a batch for a model.

    pixels: that model's, model.pixels.
    """
    files = list_pictures(path)[:limit]
    return [file.stem for file in files], open_pictures(files, pixels, size)


def draw(names: list[str], result: Reconstruction, out: str | Path, note: str) -> None:
    """Write a PNG: a row an image of one band or three, the four pictures as columns, the note underneath."""
    from matplotlib.figure import Figure

    columns = ("original", "masked", "reconstruction", "reconstruction + visible")
    pictures = (result.original, result.masked, result.predicted, result.pasted)
    figure = Figure(figsize=(2.4 * len(columns), 2.4 * len(names) + 0.5), layout="constrained")
    axes = figure.subplots(len(names), len(columns), squeeze=False)
    for row, name in enumerate(names):
        for axis, title, picture in zip(axes[row], columns, pictures, strict=True):
            axis.imshow(picture[row].squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[], title=title if row == 0 else "")
        axes[row][0].set_ylabel(name, fontsize=8)
    figure.supxlabel(note, fontsize=8)
    write_atomic(out, lambda file: figure.savefig(file, format="png", dpi=110))
