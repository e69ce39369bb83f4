"""How good a classifier is: loss, accuracy and confusion on every picture of a loader, shared out over the ranks."""

import gc
import logging
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast.data.evaluate import EvalLoader
from mae_fast.train import distributed
from mae_fast.train.confusion import draw_confusion
from mae_fast.train.run import Run

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """loss: mean cross-entropy of a picture; acc1, acc5: per cent; confusion: int64 (classes, classes), on the CPU."""

    loss: float
    acc1: float
    acc5: float
    confusion: Tensor

    @property
    def images(self) -> int:
        return int(self.confusion.sum())

    def __str__(self) -> str:
        top5 = f"{self.acc5:.2f} % in the first five"
        return f"accuracy {self.acc1:.2f} % of {self.images} images, {top5}, loss {self.loss:.4f}"


@torch.no_grad()
def evaluate(model: nn.Module, network: nn.Module, loader: EvalLoader, classes: int, dtype: torch.dtype) -> Scores:
    """Scores of a classifier over all ranks, each of which must call it. The model is in training mode afterwards as
    it was before.

    network: the model itself, or compiled; dtype: of the matrix products. ValueError where no picture can be read.
    """
    device, was_training = next(model.parameters()).device, model.training
    if distributed.size() > 1:
        for buffer in model.buffers():  # running statistics, which each rank counts on its own
            dist.broadcast(buffer, 0)
    model.eval()
    size = 0
    sums = torch.zeros(3, dtype=torch.float64, device=device)
    confusion = torch.zeros(classes * classes, dtype=torch.int64, device=device)
    for imgs, labels in loader.epoch(0):
        imgs, labels = imgs.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        size = max(size, len(imgs))
        if network is not model and len(imgs) < size:  # the last batch, which would be compiled for once more
            imgs = torch.cat([imgs, imgs[-1:].expand(size - len(imgs), *imgs.shape[1:])])
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(imgs)[: len(labels)].float()
        guesses = logits.topk(min(5, classes), dim=1).indices
        hits = guesses == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([loss, hits[:, 0].sum(), hits.sum()]).double()
        confusion += torch.bincount(labels * classes + guesses[:, 0], minlength=classes**2)
    model.train(was_training)
    for counted in (sums, confusion) if distributed.size() > 1 else ():
        dist.all_reduce(counted)
    matrix = confusion.view(classes, classes).cpu()
    images = int(matrix.sum())
    if not images:
        raise ValueError(
            f"data_path: not one picture could be read; the first: {next(iter(loader.bad_images.items()))}"
        )
    loss, first, five = (sums / images).tolist()
    return Scores(loss, 100 * first, 100 * five, matrix)


def picture(scores: Scores, classes: list[str], folder: str | Path) -> Path:
    """Draw confusion.png in a run's folder. classes: their names; where more are told apart, numbers stand for them."""
    path = Path(folder) / "confusion.png"
    names = [*classes, *map(str, range(len(classes), len(scores.confusion)))]
    draw_confusion(scores.confusion, names, path, str(scores))
    gc.collect()  # a figure is a cycle with megabytes of pixels
    return path


class Evaluation:
    """A callback of a run (`mae_fast.train.run.Run.callbacks`): what the official scripts write of an epoch."""

    def __init__(self, loader: EvalLoader, names: list[str], classes: int, dtype: torch.dtype):
        self.loader, self.names, self.classes, self.dtype = loader, names, classes, dtype
        self.best, self._network, self._drawn = 0.0, None, time.monotonic()

    def __call__(self, run: Run, epoch: int) -> dict[str, float]:
        if self._network is None:
            self._network = torch.compile(run.model, dynamic=False) if run.step.compiled else run.model
        scores = evaluate(run.model, self._network, self.loader, self.classes, self.dtype)
        self.best = max(self.best, scores.acc1)
        if run.report:
            run.report.say(f"epoch {epoch + 1}: {scores}; best {self.best:.2f} %")
            last = epoch + 1 == run.recipe.schedule.epochs
            if run.recipe.output_dir and (last or time.monotonic() - self._drawn > 60):
                self._drawn = time.monotonic()
                try:
                    picture(scores, self.names, run.recipe.output_dir)
                except OSError as error:  # a disk that takes no more ends no run
                    logger.warning("confusion.png could not be written (%s). The run goes on", error.strerror or error)
        trained = sum(p.numel() for p in run.step.parameters)
        return {"test_loss": scores.loss, "test_acc1": scores.acc1, "test_acc5": scores.acc5, "n_parameters": trained}
