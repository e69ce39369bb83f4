"""Which pictures and pixels are known to be unusual, and how well scores tell them from the others (AUROC)."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from mae_fast.downstream.extras import need
from mae_fast.files.atomic import write_atomic

NORMAL = "good"  # the class folder of pictures with nothing unusual, as MVTec AD calls it (Bergmann et al. 2019)


@dataclass(frozen=True)
class Scored:
    """A picture, the mean and the maximum of its error map, and whether it is unusual, None where nobody says."""

    name: str
    mean: float
    max: float
    unusual: bool | None


def labels_of(files: list[Path], root: Path, masks: dict[Path, np.ndarray] | None) -> list[bool | None]:
    """Whether each picture is unusual: by its mask, else by its class folder below root, `good` against the others."""
    if masks is not None:
        return [bool(masks[file].any()) if file in masks else False for file in files]
    folders = [file.relative_to(root).parts[0] if file.parent != root else None for file in files]
    return [folder != NORMAL if NORMAL in folders and folder else None for folder in folders]


def read_masks(files: list[Path], root: Path, masks: str | Path, size: tuple[int, int]) -> dict[Path, np.ndarray]:
    """{picture: bool (H, W), what is unusual in it}: pictures of the same place below `masks`, of the same name with or
    without _mask, cut to size as the picture is. Those without one have nothing unusual.

    Raises FileNotFoundError where the folder is not there, ValueError where a picture of another class than `good` has
    none, or no picture has one.
    """
    if not Path(masks).is_dir():
        raise FileNotFoundError(f"{masks}: no such folder; give the folder of mask pictures")
    found = {}
    for file in files:
        place = Path(masks) / file.relative_to(root)
        there = next((p for stem in (file.stem, f"{file.stem}_mask") for p in place.parent.glob(f"{stem}.*")), None)
        if there:
            with Image.open(there, formats=("PNG", "BMP", "TIFF", "PPM")) as opened:
                fitted = ImageOps.fit(opened.convert("L"), size[::-1], Image.Resampling.NEAREST)
            found[file] = np.asarray(fitted) > 0
        elif (root / NORMAL).is_dir() and file.relative_to(root).parts[0] != NORMAL:
            raise ValueError(f"masks: none for {file}; expected {place} or {place.stem}_mask beside it")
    if not found:
        raise ValueError(f"masks: no picture in {masks} has the place and name of one in {root}, with or without _mask")
    return found


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Error maps (B, h, w) -> (B, H, W), bilinear."""
    return F.interpolate(maps[:, None], size=size, mode="bilinear")[:, 0]


def auroc(unusual: Sequence[bool], scores: Sequence[float]) -> float | None:
    """Area under the ROC curve: how often an unusual one has the higher score. None where all are of one kind."""
    if not 0 < np.sum(unusual) < len(unusual):
        return None
    return float(need("sklearn.metrics", "AUROC").roc_auc_score(unusual, scores))


def pixel_auroc(files: list[Path], maps: Tensor, masks: dict[Path, np.ndarray], size: tuple[int, int]) -> float | None:
    """The same over all pixels of the pictures, by their error maps (B, h, w) enlarged."""
    nothing = np.zeros(size, bool)
    unusual = np.stack([masks.get(file, nothing) for file in files])
    return auroc(unusual.ravel(), enlarge(maps, size).numpy().ravel())


def write_scores(path: str | Path, table: list[Scored]) -> None:
    """Write a CSV: name, mean, max, unusual (1, 0, or empty where nobody says)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["name", "mean", "max", "unusual"])
    for row in table:
        unusual = "" if row.unusual is None else int(row.unusual)
        writer.writerow([row.name, f"{row.mean:.6g}", f"{row.max:.6g}", unusual])
    write_atomic(path, lambda file: file.write(text.getvalue().encode()))


def table_of(files: list[Path], root: Path, maps: Tensor, unusual: list[bool | None]) -> list[Scored]:
    """One row a picture, in their order, by error maps (B, h, w)."""
    means, highest = maps.flatten(1).mean(1).tolist(), maps.flatten(1).amax(1).tolist()
    names = [str(file.relative_to(root)) for file in files]
    return [Scored(*row) for row in zip(names, means, highest, unusual, strict=True)]
