"""A run: its recipe, what this machine made of it, and how far it is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mae_fast.data.loader import Loader
from mae_fast.model.masking import SampleNoise
from mae_fast.recipe import Classify, Pretrain, Schedule
from mae_fast.train import distributed
from mae_fast.train.interrupt import StopSignal
from mae_fast.train.report import Report
from mae_fast.train.run_state import Position
from mae_fast.train.step import TrainingStep


@dataclass(frozen=True)
class Resolved:
    """What a recipe leaves open, as this machine, this model and these data settle it."""

    model: str
    device: torch.device
    world: distributed.World
    dtype: str
    batch_size: int
    schedule: Schedule  # with its absolute lr

    def settings(self, recipe: Pretrain | Classify) -> dict:
        """Every setting by the name of its flag, as an official checkpoint keeps them."""
        return recipe.flat() | {
            "model": self.model,
            "device": self.device.type,
            "world_size": self.world.size,
            "dtype": self.dtype,
            "batch_size": self.batch_size,
            "lr": self.schedule.lr,
        }


@dataclass
class Run:
    """A run under way."""

    recipe: Pretrain | Classify
    resolved: Resolved
    model: nn.Module
    step: TrainingStep
    loader: Loader
    position: Position
    stop: StopSignal
    noise: SampleNoise | None = None  # what masks are drawn from; None: the model draws its own
    # (imgs, labels, epoch, first place) -> what the step takes; None: what the loader gives.
    mix: Callable[[Tensor, Tensor, int, int], tuple[Tensor, Tensor]] | None = None
    report: Report | None = None  # rank 0 alone
    # Called on every rank after an epoch, with the run and the epoch; their numbers go into its line of log.txt.
    callbacks: list[Callable[["Run", int], dict[str, float]]] = field(default_factory=list)
    epoch_began: float = 0.0  # time.perf_counter()
    last_checkpoint: Path | None = None
    save_is_due: bool = False  # the last one failed
    non_finite: int = 0  # in a row, so far
    window: list[tuple[float, float, Tensor]] = field(default_factory=list)  # (fractional epoch, lr, loss) not yet read
    warned_images: int = 0

    @property
    def batches(self) -> int:
        """Batches used of an epoch; the rest would never reach an optimizer step."""
        return len(self.loader) // self.recipe.accum_iter * self.recipe.accum_iter

    @property
    def images_per_batch(self) -> int:
        """Images of one forward pass on all ranks."""
        return self.resolved.batch_size * self.resolved.world.size
