"""Which checkpoint a run goes on from: the newest one that is whole, or the one that was asked for."""

import logging
from pathlib import Path

from mae_fast.files.checkpoint import CheckpointError
from mae_fast.files.whole import NO_ARCHIVE, damage
from mae_fast.recipe import Pretrain
from mae_fast.train import distributed

logger = logging.getLogger(__name__)


def checkpoint_of(recipe: Pretrain) -> Path | None:
    """What to go on from, None for a new run. Rank 0 reads and decides; every rank must call it.

    auto_resume passes over damaged files and says so. Raises CheckpointError where resume names a damaged file, and
    where output_dir holds damaged ones alone: starting anew would throw away what can perhaps be saved.
    """
    return distributed.by_main(lambda: _choose(recipe))


def _choose(recipe: Pretrain) -> Path | None:
    if recipe.resume:
        path = Path(recipe.resume)
        wrong = damage(path)
        if wrong == NO_ARCHIVE:  # older files; load_file reads them, or says what they are
            return path
        if wrong:
            other = newest_whole(path.parent, quiet=True)
            remedy = f"the newest whole checkpoint beside it is {other}" if other else "there is no whole one beside it"
            raise CheckpointError(f"{path}: {wrong}; {remedy}")
        return path
    if not (recipe.auto_resume and recipe.output_dir):
        return None
    folder = Path(recipe.output_dir)
    choice = newest_whole(folder)
    if choice is None and checkpoints(folder):
        raise CheckpointError(
            f"output_dir: {folder} has no whole checkpoint to go on from; move the damaged ones away to start anew"
        )
    return choice


def newest_whole(folder: Path, quiet: bool = False) -> Path | None:
    """The newest whole checkpoint of a run's folder. quiet: pass over damaged ones without a word."""
    for path in checkpoints(folder):
        if not (wrong := damage(path)):
            return path
        if not quiet:
            logger.warning("auto_resume: %s is passed over: %s", path, wrong)
    return None


def how_to_go_on(recipe: Pretrain) -> str:
    """The end of a sentence about a run that had to stop where it was."""
    newest = recipe.output_dir and newest_whole(Path(recipe.output_dir), quiet=True)
    return f"To go on: resume={newest}" if newest else "No checkpoint was written before"


def checkpoints(folder: Path) -> list[Path]:
    """Those in a run's folder, the one written last first."""
    return sorted(folder.glob("checkpoint-*.pth"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
