"""make_eval_loader: every picture once, in the source's order, fitted to the model and not augmented."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mae_fast.data.augment import STRENGTHS
from mae_fast.data.loader import BACKENDS, ON_BAD, Loader, available_cpus, check_rank, check_words, engine_named
from mae_fast.data.plan import Plan, Planner
from mae_fast.data.sampler import InOrder
from mae_fast.data.sources import Source
from mae_fast.data.watch import TIMEOUT
from mae_fast.pixels import RGB, Pixels


def crop_of(image_size: int | tuple[int, int]) -> float:
    """The share of the shorter side that official evaluation keeps: 224 of 256 up to 224 pixels, above them all."""
    return 224 / 256 if np.max(image_size) <= 224 else 1.0


class FittingPlanner(Planner):
    """Plans whole pictures: resized until image_size / crop pixels are covered, and the middle cut out.

    The sizes and the middle are those of torchvision's Resize and CenterCrop.
    """

    fits = True

    def __init__(
        self, source: Source, sampler: InOrder, convert: bool, image_size: tuple[int, int], crop: float, pixels: Pixels
    ):
        super().__init__(source, sampler, STRENGTHS["light"], convert, pixels)
        self._size, self._covered = np.array(image_size), np.array([int(side / crop) for side in image_size])

    def _arrange(self, epoch: int, batch: int, indices: np.ndarray, skipped: list[int]) -> Plan:
        sizes = self.sizes[indices].astype(np.int64)
        leading = (self._covered / sizes).argmax(axis=1)  # the side that is scaled to just what must be covered
        rows = np.arange(len(indices))
        resized = self._covered[leading][:, None] * sizes // sizes[rows, leading][:, None]
        corner = np.rint((resized - self._size) / 2)
        fit = np.concatenate([resized, corner], axis=1).astype(np.int32)
        windows = np.concatenate([np.zeros_like(sizes), sizes], axis=1).astype(np.int32)
        return Plan(indices, windows, np.zeros(len(indices), np.int32), None, skipped, fit)


class EvalLoader(Loader):
    """`epoch` gives (images, labels), `indexed` also which pictures they are. A bad one is left out and counted."""

    def indexed(self, epoch: int = 0, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor | None, np.ndarray]]:
        sampler = self._engine.planner.sampler
        for batch, (images, labels, indices) in enumerate(super().indexed(epoch, start_batch), start_batch):
            meant = indices == np.array(sampler.places(batch))  # elsewhere a good one stands in for a bad one
            if not meant.all():
                kept = torch.from_numpy(np.flatnonzero(meant)).to(images.device)
                images, labels = images[kept], None if labels is None else labels[kept]
                indices = indices[meant]
            if len(indices):
                yield images, labels, indices


def make_eval_loader(
    source: Source,
    batch_size: int,
    image_size: int | tuple[int, int],
    *,
    crop: float | None = None,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    on_bad_image: str = "skip",
    timeout: float = TIMEOUT,
    pixels: Pixels = RGB,
) -> EvalLoader:
    """A loader of every picture of `source` once over the ranks, in the source's order; the last batch is short.

    Pictures are resized, bicubic, so that the shorter side is image_size / crop, and the middle is cut out; crop None:
    as in the official evaluation, `crop_of`. A bad picture is left out of its batch: on_bad_image "skip" counts it in
    bad_images, "stop" raises BadImageError. The other arguments and errors are those of make_loader.
    """
    check_words(backend=(backend, BACKENDS), on_bad_image=(on_bad_image, ON_BAD))
    check_rank(rank, world_size)
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    crop = crop_of(image_size) if crop is None else crop
    if not 0 < crop <= 1:
        raise ValueError(f"crop: expected more than 0, at most 1, got {crop}")
    size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    workers = min(10, available_cpus()) if num_workers is None else num_workers
    sampler = InOrder(len(source), min(batch_size, len(source)), rank, world_size)
    planner = FittingPlanner(source, sampler, on_bad_image == "convert", size, crop, pixels)
    engine = engine_named(backend, pixels)(planner, size, workers, torch.device(device))
    return EvalLoader(engine, on_bad_image == "stop", timeout)
