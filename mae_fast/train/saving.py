"""Checkpoints of a run under way, and what happens where the disk takes none."""

import logging
from pathlib import Path

from mae_fast.train.run import Run
from mae_fast.train.run_state import SaveFailed, save_run

logger = logging.getLogger(__name__)


def save(run: Run, name: str, alone: bool = False) -> None:
    """Write output_dir/name; it is last_checkpoint then. alone: as in save_run. Raises SaveFailed on every rank."""
    step, resolved = run.step, run.resolved
    path, settings = Path(run.recipe.output_dir) / name, resolved.settings(run.recipe)
    try:
        terms = getattr(step.module, "terms", ())
        save_run(path, run.model, step.optimizer, step.scaler, run.position, settings, resolved.device, alone, terms)
    except SaveFailed as error:
        error.go_on_from(run.last_checkpoint)
        raise
    run.last_checkpoint, run.save_is_due = path, False


def save_of_epoch(run: Run, epoch: int) -> bool:
    """At the end of an epoch: save where it is time, and where an earlier save failed. -> whether it was written.

    A disk that is full now may be free at the end of the next epoch, so that all but the run's last save may fail.
    """
    recipe = run.recipe
    last = epoch + 1 == recipe.schedule.epochs
    if not recipe.output_dir or not (epoch % recipe.save_every == 0 or last or run.save_is_due):
        return False
    try:
        save(run, f"checkpoint-{epoch}.pth")
    except SaveFailed as error:
        if last:
            raise
        run.save_is_due = True
        if run.report:
            logger.warning("%s. The run goes on, and tries again at the end of the next epoch", error.reason)
            run.report.note("fault", text=error.reason)
        return False
    return True
