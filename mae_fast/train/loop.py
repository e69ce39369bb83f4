"""Pretraining: files -> loader -> loss -> gradient -> optimizer -> checkpoint, one epoch after another.

The step itself is mae_fast.train.step; all before the first is mae_fast.train.assemble. The host never waits for the
device inside a step: losses stay there and are read a window at a time.
"""

import contextlib
import logging
import math
import time
from collections.abc import Sequence
from itertools import islice

import torch
from torch import nn

from mae_fast.data import LoaderError
from mae_fast.files.lock import FolderLock
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.recipe import Pretrain
from mae_fast.train import distributed
from mae_fast.train.announce import end_noted
from mae_fast.train.assemble import assemble
from mae_fast.train.interrupt import Interrupted, LoaderFailed
from mae_fast.train.optim import lr_at
from mae_fast.train.parallel import is_sharded, whole
from mae_fast.train.run import Run
from mae_fast.train.run_state import Position, SaveFailed
from mae_fast.train.saving import save, save_of_epoch

logger = logging.getLogger(__name__)
# Batches between two looks at the losses and at signals: a few seconds of a large model that fills its GPU. On the CPU
# there is nothing to wait for.
WINDOW = {"cuda": 20, "cpu": 1}
PATIENCE = 5  # non-finite losses in a row before the run gives up
NAMED = 100  # bad images, at most, that run.jsonl names; all are counted


class Diverged(RuntimeError):
    """Several steps in a row had no finite loss."""


def pretrain(recipe: Pretrain, model: MaskedAutoencoderViT | None = None, terms: Sequence[nn.Module] = ()) -> None:
    """Train a Masked Autoencoder as the recipe says: checkpoints, log.txt and loss.png in recipe.output_dir.

    model: trained in place of a new one of the size recipe.model. terms: added to the loss, such as Perceptual and
    Adversarial of mae_fast.train.losses. Raises Interrupted after a signal, LoaderFailed,
    Diverged, RankLost where another rank is gone, SaveFailed where the disk takes no last checkpoint, FolderInUse where
    another run writes there, and ValueError or OSError for settings and files that cannot work.
    """
    lock = FolderLock("output_dir")
    with distributed.leaving(), contextlib.closing(lock):
        train(assemble(recipe, model, lock, terms))


def train(run: Run) -> None:
    """All epochs that a run has left."""
    epochs, started, first = run.recipe.schedule.epochs, time.perf_counter(), run.position
    first_batch = first.batch
    try:
        with end_noted(run):
            if first.epoch < epochs:
                prepare(run)
            for _ in range(first.epoch, epochs):
                train_one_epoch(run)
                finish_epoch(run)
            batches = (epochs - first.epoch) * run.batches - first_batch  # none where it was stopped at its last step
            if batches > 0 and not run.step.taken.item():
                raise Diverged(
                    "no step was taken: none had a finite loss and gradient, so the weights are those of the start"
                )
    except LoaderError as error:
        stop_for_loader(run, error)
    finally:
        run.stop.restore()
        if run.report:
            run.report.close()
    if run.report and batches > 0:
        summarise(run, batches * run.images_per_batch / (time.perf_counter() - started))


def prepare(run: Run) -> None:
    """Compile and capture, on a batch like the loader's, before the loader starts: the two would slow each other down,
    and a capture wants nobody else at work on the device."""
    batch, device = run.resolved.batch_size, run.resolved.device
    imgs = run.loader.pixels.blank(batch, run.recipe.data.size, device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device) if run.loader.labelled else None
    if run.mix:
        imgs, labels = run.mix(imgs, labels, 0, 0)
    run.step.prepare(imgs, labels)


def train_one_epoch(run: Run) -> None:
    position, accum = run.position, run.recipe.accum_iter
    run.epoch_began = time.perf_counter()
    if run.report:
        run.report.begin_epoch()
    batches = islice(run.loader.epoch(position.epoch, position.batch), run.batches - position.batch)
    for imgs, labels in batches:
        at = position.epoch + position.batch / run.batches
        if run.noise:
            run.noise.at(position.epoch, run.loader.first_place(position.batch))
        if position.batch % accum == 0:
            lr = lr_at(at, run.resolved.schedule, position.losses)
        if run.mix:
            imgs, labels = run.mix(imgs, labels, position.epoch, run.loader.first_place(position.batch))
        loss = run.step(imgs, lr, labels)
        position.batch += 1
        if loss is not None:  # enough batches for an update
            run.window.append((at, lr, loss))
            full = len(run.window) * accum >= WINDOW[run.resolved.device.type]
            if full or position.batch == run.batches:
                read_window(run)
                stop_if_asked(run)


def read_window(run: Run, alone: bool = False) -> None:
    """The one place where the host waits for the device: bring the losses of the last steps over and report them.

    alone: those of this rank, where the others are not here to be asked for theirs.
    """
    position = run.position
    losses = torch.stack([loss for *_, loss in run.window])
    losses = (losses if alone else distributed.mean_(losses)).tolist()
    records = [(at, lr, loss) for (at, lr, _), loss in zip(run.window, losses, strict=True)]
    run.window.clear()
    for _, lr, loss in records:
        if math.isfinite(loss):
            run.non_finite = 0
            position.loss_sum, position.lr_sum = position.loss_sum + loss, position.lr_sum + lr
            position.steps += 1
        else:
            run.non_finite += 1
            position.skipped += 1
    if run.report:
        run.report.steps(position.epoch, records, len(records) * run.recipe.accum_iter * run.images_per_batch)
        warn_of_bad_images(run)
    if run.non_finite >= PATIENCE:
        raise Diverged(
            f"{run.non_finite} steps in a row had no finite loss (epoch {position.epoch + 1}); {last_good(run)}"
        )


def finish_epoch(run: Run) -> None:
    position = run.position
    if not all(whole(p.isfinite().all()) for p in run.model.parameters()):
        raise Diverged(f"weights are not finite after epoch {position.epoch + 1}; {last_good(run)}")
    epoch, steps = position.epoch, position.steps or math.nan  # no mean where every step was skipped
    train_loss, train_lr = position.loss_sum / steps, position.lr_sum / steps
    run.position = Position(
        epoch + 1, skipped=position.skipped, losses=[*position.losses, train_loss], layout=position.layout
    )
    more = {name: number for callback in run.callbacks for name, number in callback(run, epoch).items()}
    if run.report:
        noted = {"skipped": position.skipped, "bad_images": len(run.loader.bad_images)}
        # before the checkpoint: a resumed run drops what is too much
        run.report.epoch(epoch, train_lr, train_loss, more, noted)
    if save_of_epoch(run, epoch) and run.report:
        run.report.picture()


def stop_if_asked(run: Run) -> None:
    """After a signal to any rank: write where we are and leave by an exception."""
    signum = max(distributed.gather(run.stop.signum))
    if signum:
        if run.recipe.output_dir:
            save(run, "checkpoint-interrupted.pth")
        raise Interrupted(signum, run.last_checkpoint, run.resolved.world.is_main)


def stop_for_loader(run: Run, error: LoaderError) -> None:
    """Write where this rank's last update left it, and leave by an exception.

    The other ranks wait inside a step for this one, so none is asked: the launcher ends them when this one has gone.
    """
    alone = run.resolved.world.size > 1
    run.position.batch -= run.position.batch % run.recipe.accum_iter  # gradients without their update are lost
    before = run.last_checkpoint
    try:
        if run.window:
            read_window(run, alone)
        if run.recipe.output_dir and not (alone and is_sharded(run.step.module)):  # whose weights are everywhere
            save(run, "checkpoint-interrupted.pth", alone)
    except SaveFailed as failed:
        logger.warning("%s", failed.reason)
        raise LoaderFailed(error, before) from error
    except torch.AcceleratorError:  # what killed the loader took the device with it
        raise LoaderFailed(error, before) from error
    raise LoaderFailed(error, run.last_checkpoint) from error


def warn_of_bad_images(run: Run) -> None:
    bad = run.loader.bad_images
    if len(bad) > run.warned_images:
        name, reason = list(bad.items())[-1]
        run.warned_images = len(bad)
        run.report.say(f"skipped {len(bad)} bad images so far, the last one {name} ({reason})")
        if len(bad) <= NAMED:
            run.report.note("bad_images", count=len(bad), name=name, reason=reason)


def last_good(run: Run) -> str:
    checkpoint = run.last_checkpoint or "none yet"
    return f"the run stops. Last good checkpoint: {checkpoint}. A lower blr or clip_grad 1 may help"


def summarise(run: Run, rate: float) -> None:
    """Log how the run went. rate: images a second."""
    losses, folder = run.position.losses, run.report.folder
    counts = {"steps": run.position.skipped, "bad images": len(run.loader.bad_images)}
    skipped = "".join(f", {count} {what} skipped" for what, count in counts.items() if count)
    logger.info(
        "Trained %d epochs: loss %.4f -> %.4f, %.1f images/s%s",
        run.recipe.schedule.epochs, losses[0], losses[-1], rate, skipped,
    )  # fmt: skip
    if folder:
        logger.info("Wrote %s, %s, %s", run.last_checkpoint, folder / "log.txt", folder / "loss.png")
