"""Features of every picture of a data set, and the files that other programs read them from."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from mae_fast.data import make_eval_loader
from mae_fast.data.sources import Source
from mae_fast.downstream.extras import need
from mae_fast.files.atomic import write_atomic
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train.encoding import Encoder, Features, encode_all

logger = logging.getLogger(__name__)
FORMATS = (".npz", ".safetensors", ".parquet")


def extract(
    model: MaskedAutoencoderViT,
    source: Source,
    *,
    pool: str = "cls",
    layer: int | None = None,
    dtype: torch.dtype = torch.float32,
    batch_size: int = 64,
    crop: float | None = None,
    num_workers: int | None = None,
    backend: str = "auto",
    progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """Features of every picture of source that can be read, in its order, on the device of the model.

    pool, layer: as in `mae_fast.train.encoding.Encoder`; dtype: of the matrix products; crop, num_workers, backend: of
    `make_eval_loader`; progress: told how many pictures each batch had. The bad ones are left out, and logged. All are
    kept in memory: 4 bytes a number.
    """
    device = model.pos_embed.device
    loader = make_eval_loader(
        source, batch_size, model.patch_embed.img_size, crop=crop, num_workers=num_workers, device=device,
        backend=backend, pixels=model.pixels,
    )  # fmt: skip

    def batches():
        for batch in loader.indexed():
            yield batch
            progress(len(batch[2]))

    features = encode_all(Encoder(model, pool, layer), batches(), dtype, len(source))
    if loader.bad_images:
        name, reason = list(loader.bad_images.items())[-1]
        logger.warning("left out %d bad images, the last one %s (%s)", len(loader.bad_images), name, reason)
    return features


def names_of(source: Source, indices: np.ndarray, root: str | Path) -> list[str]:
    """The names of those pictures of source, from the folder `root` on where they are in it."""
    return [source.name(int(index)).removeprefix(f"{Path(root)}/") for index in indices]


def check_format(path: str | Path) -> None:
    """ValueError for a file name that ends in none of FORMATS, ImportError where Parquet cannot be written."""
    if Path(path).suffix not in FORMATS:
        raise ValueError(f"{path}: expected a name that ends with one of {', '.join(FORMATS)}")
    if Path(path).suffix == ".parquet":
        need("pyarrow.parquet", str(path))


def write_features(path: str | Path, features: Features, names: list[str], classes: list[str]) -> None:
    """Write names, labels, names of classes and features, atomically, in the format that the file's name ends with.

    npz: arrays features, names, labels and classes. safetensors: tensors features and labels; names and classes as
    JSON in its metadata. parquet: a row a picture, columns name, label, class and features, a list of numbers; lists of
    lists for patches. Labels are -1, and classes empty, where the source has none.
    """
    check_format(path)
    labels = np.full(len(names), -1, np.int64) if features.labels is None else features.labels.numpy()
    arrays = {"features": features.features.numpy(), "labels": labels}
    write = {".npz": _npz, ".safetensors": _safetensors, ".parquet": _parquet}[Path(path).suffix]
    write_atomic(path, lambda file: write(file, arrays, names, classes))


def _npz(file, arrays: dict[str, np.ndarray], names: list[str], classes: list[str]) -> None:
    np.savez(file, **arrays, names=np.array(names, str), classes=np.array(classes, str))


def _safetensors(file, arrays: dict[str, np.ndarray], names: list[str], classes: list[str]) -> None:
    from safetensors.numpy import save

    file.write(save(arrays, {"names": json.dumps(names), "classes": json.dumps(classes)}))


def _parquet(file, arrays: dict[str, np.ndarray], names: list[str], classes: list[str]) -> None:
    pyarrow, parquet = need("pyarrow", "Parquet"), need("pyarrow.parquet", "Parquet")
    features, labels = arrays["features"], arrays["labels"]
    column = pyarrow.array(features.ravel())
    for size in features.shape[:0:-1]:  # numbers -> patches -> pictures
        column = pyarrow.FixedSizeListArray.from_arrays(column, size)
    said = [classes[label] if label >= 0 else None for label in labels]
    columns = {"name": names, "label": labels, "class": pyarrow.array(said, pyarrow.string()), "features": column}
    parquet.write_table(pyarrow.table(columns), file)
