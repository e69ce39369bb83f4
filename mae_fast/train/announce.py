"""What the start of a run says of it: model, kernels, how the step runs, data, learning rate; and its end."""

import contextlib
import logging

import torch

from mae_fast.config import DTYPES
from mae_fast.model.attention import ATTENTION, FUSED
from mae_fast.model.precision import stream_dtype
from mae_fast.ops import kernels
from mae_fast.pixels import RGB
from mae_fast.train.journal import device_name, versions
from mae_fast.train.report import Report
from mae_fast.train.run import Run

logger = logging.getLogger(__name__)


def begin_report(run: Run) -> None:
    """Tell what is about to happen, and open the report; or that the run is complete already."""
    recipe, epochs, position = run.recipe, run.recipe.schedule.epochs, run.position
    if position.epoch >= epochs:
        logger.info(
            "%s is of a run that is already complete: %d epochs, epochs %d. To train longer: epochs with more than %d",
            run.last_checkpoint, position.epoch, epochs, position.epoch,
        )  # fmt: skip
        return
    announce(run)
    start = position.epoch + position.batch / run.batches
    images = run.batches * run.images_per_batch
    run.report = Report(recipe.output_dir, recipe.log_dir, epochs, images, start, again=recipe.auto_resume)
    run.report.note("start", epoch=start, **facts(run))


def facts(run: Run) -> dict:
    """What run.jsonl keeps of a process: what it does, on what, with which settings and versions."""
    resolved, source, usual = run.resolved, run.last_checkpoint, type(run.recipe)().flat()
    return {
        "kind": type(run.recipe).__name__.lower(),
        "model": resolved.model,
        "parameters": sum(p.numel() for p in run.step.parameters),
        "device": device_name(resolved.device),
        "processes": resolved.world.size,
        "step": how(run).split(";")[0],
        "loader": run.loader.backend,
        "effective_batch": run.images_per_batch * run.recipe.accum_iter,
        "images": run.batches * run.images_per_batch,
        "resumed_from": source and str(source),
        "versions": versions(),
        "settings": resolved.settings(run.recipe),
        "changed": [name for name, value in run.recipe.flat().items() if value != usual[name]],
    }


@contextlib.contextmanager
def end_noted(run: Run):
    """Around all epochs: leave word in run.jsonl of how they ended. Without it the process was killed or is at work."""
    text = ""
    try:
        yield
    except BaseException as error:
        text = str(error) or type(error).__name__
        raise
    finally:
        if run.report:
            run.report.note("end", text=text, complete=not text)


def announce(run: Run) -> None:
    resolved, schedule = run.resolved, run.resolved.schedule
    parameters = sum(p.numel() for p in run.step.parameters) / 1e6
    where = f"{resolved.dtype} on {resolved.device} x {resolved.world.size}"
    logger.info("%s, %.1f M parameters, %s", resolved.model, parameters, where)
    logger.info("kernels: %s", kernels(resolved.device.type))
    logger.info("step: %s", how(run))
    logger.info(
        "%d images an epoch, loader %s; effective batch %d, lr %.2e",
        run.batches * run.images_per_batch, run.loader.backend, run.images_per_batch * run.recipe.accum_iter,
        schedule.lr,
    )  # fmt: skip
    pixels = run.loader.pixels
    if pixels != RGB:
        mean, std = (" ".join(f"{x:.4g}" for x in numbers) for numbers in (pixels.mean, pixels.std))
        logger.info("pictures: %s; mean %s, std %s", pixels, mean, std)
    if schedule.warmup_epochs >= schedule.epochs:
        logger.info(
            "warmup_epochs %g >= epochs %d: the learning rate only rises", schedule.warmup_epochs, schedule.epochs
        )
    if run.last_checkpoint:
        epoch, batch = run.position.epoch + 1, run.position.batch
        logger.info("Going on from %s, epoch %d, batch %d", run.last_checkpoint, epoch, batch)


def how(run: Run) -> str:
    """How the step runs: types, attention, compiled or not, graph or not, and what comes before the first one."""
    kind, step = run.resolved.device.type, run.step
    attend = run.model.blocks[0].attn.attention
    attention = next((name for name, function in ATTENTION.items() if function is attend), attend.__name__)
    if attention == "auto":
        attention = "fused" if kind in FUSED else "sdpa"
    wanted = getattr(run.model, "stream", torch.float32)  # a classifier's stream is its parameters'
    kept_in = stream_dtype(wanted, torch.float32, DTYPES[run.resolved.dtype], run.resolved.device)
    stream = next(name for name, dtype in DTYPES.items() if dtype == kept_in)
    words = [f"{run.resolved.dtype} products", f"{stream} residual stream", f"{attention} attention"]
    words.append("compiled" if step.compiled else "not compiled")
    if kind == "cuda":
        words.append("no CUDA graph" if step.graphs is None else "one CUDA graph")
    first = "; compiling comes first and takes 1 to 2 minutes" if step.compiled else ""
    return ", ".join(words) + first
