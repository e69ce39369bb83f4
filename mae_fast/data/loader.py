"""make_loader: the one way to batches of augmented pictures, by DALI or by Pillow."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mae_fast.data.augment import STRENGTHS, Augment
from mae_fast.data.pillow_engine import PillowEngine
from mae_fast.data.plan import Planner
from mae_fast.data.sampler import Sampler
from mae_fast.data.sources import Source
from mae_fast.data.watch import TIMEOUT, watched
from mae_fast.pixels import RGB, Pixels

BACKENDS, ON_BAD = ("auto", "dali", "pillow"), ("skip", "stop", "convert")


class Loader:
    """Epochs of batches. backend: "dali", "pillow" or "arrays"; bad_images: {name: reason}, as they were met."""

    def __init__(self, engine, stop_at_bad: bool, timeout: float = TIMEOUT):
        self.backend: str = engine.name
        self.timeout = timeout
        self.bad_images: dict[str, str] = {}
        self._engine, self._stop_at_bad = engine, stop_at_bad
        self._open: Iterator | None = None

    def __len__(self) -> int:
        """Batches per epoch on this rank."""
        return len(self._engine.planner.sampler)

    def first_place(self, batch: int) -> int:
        """Where this rank's batch begins in the order of its epoch; its images take consecutive places."""
        return self._engine.planner.sampler.first_place(batch)

    @property
    def pixels(self) -> Pixels:
        """What its batches are."""
        return self._engine.planner.pixels

    @property
    def labelled(self) -> bool:
        """Whether batches come with labels."""
        return bool(self._engine.planner.source.classes)

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches: images, uint8 (B, H, W, C) or normalised float32 (B, C, H, W) as pixels says, and labels int64 (B,),
        None where the source has no classes; on the loader's device, and the same for the same epoch, whatever came
        before.

        One epoch at a time: starting another ends the one before it. Raises BadImageError where a bad file is due and
        the loader was told to stop, or where no file is good; LoaderError where the loader died, and LoaderStalled
        where a batch took longer than timeout seconds.
        """
        with contextlib.closing(self.indexed(epoch, start_batch)) as batches:
            for images, labels, _ in batches:
                yield images, labels

    def indexed(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor | None, np.ndarray]]:
        """The same, and which pictures of the source they are: int64 (B,)."""
        if self._open is not None:
            self._open.close()
        engine, planner = self._engine, self._engine.planner
        batches = engine.batches(epoch, start_batch)
        self._open = watched(batches, engine.name, engine.device, self.timeout, engine.abandon)
        with contextlib.closing(self._open) as batches:
            for images, indices, skipped in batches:
                if skipped and self._stop_at_bad:
                    raise planner.error(skipped[0])
                self.bad_images |= {planner.source.name(index): planner.faults[index] for index in skipped}
                yield images, self._labels(indices, images.device), indices

    def _labels(self, indices: np.ndarray, device: torch.device) -> Tensor | None:
        labels = self._engine.planner.source.labels
        return torch.from_numpy(labels[indices]).to(device, non_blocking=True) if self.labelled else None


def make_loader(
    source: Source,
    batch_size: int,
    image_size: int | tuple[int, int],
    *,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    augment: str | Augment = "light",
    num_workers: int | None = None,
    device: str | torch.device = "cpu",
    backend: str = "auto",
    on_bad_image: str = "skip",
    timeout: float = TIMEOUT,
    pixels: Pixels = RGB,
    dali=None,
) -> Loader:
    """A loader of augmented batches of `source`, this rank's share of it.

    image_size: pixels, one number or (height, width); augment: light, medium or strong, or their like; num_workers:
    DALI threads or processes, None = the CPUs this process may use, at most 10; backend: auto = DALI where it is
    installed and reads such pictures; on_bad_image: skip (the next good picture takes its place), stop (BadImageError)
    or convert (what can be made as pixels says is converted, the unreadable are skipped); timeout: seconds that a batch
    may take; pixels: what the files hold; dali: its mae_fast.data.dali_pipeline.Settings, None as shipped. Raises
    ValueError, or ImportError for a missing DALI.
    """
    if not isinstance(augment, Augment):
        check_words(augment=(augment, tuple(STRENGTHS)))
        augment = STRENGTHS[augment]
    check_words(backend=(backend, BACKENDS), on_bad_image=(on_bad_image, ON_BAD))
    check_rank(rank, world_size)
    if batch_size < 1 or len(source) < batch_size * world_size:
        raise ValueError(
            f"batch_size: {len(source)} images do not fill one batch of {batch_size} on each of {world_size} processes "
            f"({batch_size * world_size}); lower batch_size to {max(1, len(source) // world_size)} or less"
        )
    if (augment.jitter or augment.grey or augment.policy) and pixels.mode != "RGB":
        raise ValueError(f"augment: this one changes colours, of 8-bit RGB; of {pixels} use light")
    size = (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])
    device = torch.device(device)
    workers = min(10, available_cpus()) if num_workers is None else num_workers
    sampler = Sampler(len(source), batch_size, seed, rank, world_size)
    planner = Planner(source, sampler, augment, on_bad_image == "convert", pixels)
    engine = engine_named(backend, pixels)
    more = (dali,) if engine.name == "dali" else ()
    return Loader(engine(planner, size, workers, device, *more), on_bad_image == "stop", timeout)


def check_words(**arguments: tuple[str, tuple[str, ...]]) -> None:
    """ValueError for an argument that is none of the words it may be; each as name=(value, words)."""
    for name, (value, allowed) in arguments.items():
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(allowed)}, got {value!r}")


def check_rank(rank: int, world_size: int) -> None:
    """ValueError for a rank that is none of world_size."""
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to {world_size - 1}, as world_size is {world_size}; got {rank}")


def engine_named(backend: str, pixels: Pixels = RGB) -> type:
    """ "auto", "dali" or "pillow" -> what makes batches. ImportError for a missing DALI, ValueError where it cannot."""
    if pixels.mode is None:
        if backend == "dali":
            raise ValueError(f"backend: dali reads 8-bit RGB and 8-bit grey, not {pixels}; use auto")
        return PillowEngine
    installed = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    if backend == "pillow" or (backend == "auto" and not installed):
        return PillowEngine
    if not installed:
        raise ImportError("backend: DALI is not installed; pip install nvidia-dali-cuda130, or use pillow")
    from mae_fast.data.dali_engine import DaliEngine  # takes a second, and is not there on every machine

    return DaliEngine


def available_cpus() -> int:
    """CPUs this process may use, which in a container is fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
