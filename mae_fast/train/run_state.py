"""A training run in a file: all that the next step depends on, in the official checkpoint layout."""

import argparse
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import CheckpointError, load_file, load_weights
from mae_fast.files.classifier import load_classifier_weights
from mae_fast.model.vit import VisionTransformer
from mae_fast.train import distributed, parallel
from mae_fast.train.optim import load_optimizer

logger = logging.getLogger(__name__)

# What the official script's GradScaler expects to find, for runs of ours that scale nothing.
UNUSED_SCALER = {
    "scale": 65536.0,
    "growth_factor": 2.0,
    "backoff_factor": 0.5,
    "growth_interval": 2000,
    "_growth_tracker": 0,
}


@dataclass(frozen=True)
class Layout:
    """How an epoch's images are cut into batches."""

    batch_size: int  # of a forward pass on one rank
    ranks: int
    accumulate: int  # forward passes an update
    images: int  # of the source

    @property
    def batch(self) -> int:
        """Images of a forward pass on all ranks."""
        return self.batch_size * self.ranks


@dataclass
class Position:
    """How far a run is. Order, augmentation and masks follow from it (see mae_fast.data.sampler)."""

    epoch: int = 0
    batch: int = 0  # next batch of that epoch, per rank
    loss_sum: float = 0.0  # of the finite losses of this epoch
    lr_sum: float = 0.0
    steps: int = 0  # summed in loss_sum
    skipped: int = 0  # steps with a non-finite loss, of the whole run
    losses: list[float] = field(default_factory=list)  # mean of each finished epoch
    layout: Layout | None = None  # what `batch` counts

    def cut(self, layout: Layout) -> bool:
        """Count in batches of another layout. -> whether it is possible: updates end here, and images are as many."""
        if self.batch and self.layout != layout:
            images = self.batch * self.layout.batch if self.layout else 0
            if not images or self.layout.images != layout.images or images % (layout.batch * layout.accumulate):
                return False
            self.batch = images // layout.batch
        self.layout = layout
        return True


class SaveFailed(OSError):
    """A checkpoint could not be written; the message names it, the cause, and what is left to go on from."""

    def __init__(self, reason: str):
        self.reason, self.left = reason, ""
        super().__init__(reason)

    def go_on_from(self, checkpoint: Path | None) -> None:
        self.left = f"To go on: resume={checkpoint}" if checkpoint else "No checkpoint was written before"

    def __str__(self) -> str:
        return f"{self.reason}. {self.left}" if self.left else self.reason


def rng_state(device: torch.device) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_rng_state(states: list[torch.Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)


def save_run(
    path: Path,
    model: nn.Module,
    optimizer,
    scaler,
    position: Position,
    settings: dict,
    device,
    alone: bool = False,
    terms: Iterable[nn.Module] = (),
) -> None:
    """Write the checkpoint, atomically, from rank 0; every rank must call it (each has random state of its own).

    Raises SaveFailed, on every rank, where the disk does not take it; what was there before stays.

    settings: by the names of the flags. They become the argparse.Namespace that an official checkpoint holds. alone:
    this rank of several writes, with no word to the others and without random states, so masks then start anew. terms:
    of the loss; those that learn are saved too.
    """
    failure = ""
    rng = [] if alone else distributed.gather(rng_state(device))
    weights, moments = (parallel.gathered(x.state_dict()) for x in (model, optimizer))
    if alone or distributed.rank() == 0:
        content = {
            "model": weights,
            "optimizer": moments,
            "epoch": position.epoch - 1,  # the last finished one
            "scaler": scaler.state_dict() or UNUSED_SCALER,
            "args": argparse.Namespace(**settings),
            "mae_fast": {"config": layouts.describe(model), "position": asdict(position), "rng": rng},
        }
        if learning := [term.state() for term in terms if hasattr(term, "state")]:
            content["mae_fast"]["terms"] = learning
        try:
            save_atomic(content, path)
        except OSError as error:
            failure = error.strerror or str(error)
    if not alone:  # the others wait for the file, and hear how it went
        failure = distributed.gather(failure)[0]
    if failure:
        raise SaveFailed(f"output_dir: {path} could not be written ({failure})")


def load_run(
    path: Path,
    model: nn.Module,
    optimizer,
    scaler,
    layout: Layout,
    device,
    rank: int,
    terms: Iterable[nn.Module] = (),
) -> Position:
    """Bring model, optimizer, scaler and random state back to where save_run, or the official script, left them.

    model: a Masked Autoencoder, or a classifier. terms: of the loss; those that learn are brought back too.
    """
    content = load_file(path)
    if not {"model", "optimizer", "epoch"} <= content.keys():
        raise CheckpointError(
            f"{path}: holds weights but no training run to go on with; to start a run from it use init_from"
        )
    if isinstance(model, VisionTransformer):
        load_classifier_weights(model, content["model"], path)
    else:
        load_pretraining_weights(model, content["model"], path)
    load_optimizer(optimizer, content["optimizer"])
    if scaler.is_enabled() and content.get("scaler"):
        scaler.load_state_dict(content["scaler"])
    ours = content.get("mae_fast", {})
    _load_terms(path, terms, ours.get("terms", []))
    if "position" not in ours:
        return Position(epoch=content["epoch"] + 1, layout=layout)
    position = Position(**ours["position"])
    position.layout = Layout(**position.layout) if isinstance(position.layout, dict) else None  # a list in older files
    if not position.cut(layout):
        if rank == 0:
            logger.info("%s: effective batch or data changed, so epoch %d starts over", path, position.epoch + 1)
        position = Position(position.epoch, skipped=position.skipped, losses=position.losses, layout=layout)
    if len(ours["rng"]) > rank:
        set_rng_state(ours["rng"][rank], device)
    return position


def _load_terms(path: Path, terms: Iterable[nn.Module], states: list[dict]) -> None:
    learning = [term for term in terms if hasattr(term, "load")]
    if len(states) != len(learning):
        raise CheckpointError(f"{path}: holds {len(states)} terms that learn, and this run has {len(learning)}")
    for term, state in zip(learning, states, strict=True):
        term.load(state)


def load_pretraining_weights(model: nn.Module, state: dict, path: Path) -> None:
    state, head = layouts.split_head(layouts.unwrap(state))
    if head:
        raise CheckpointError(
            f"{path}: holds the training run of a classifier ({', '.join(head)}), which is no pretraining run to go on "
            "with; to start a run from its encoder use init_from"
        )
    load_weights(model, parallel.spread(state, model.state_dict()), path)


def batch_size_of(path: Path) -> int | None:
    """The batch size of the run that wrote the checkpoint, None where it holds none."""
    return getattr(load_file(path).get("args"), "batch_size", None)
