"""Pretraining: files -> loader -> loss -> gradient -> optimizer -> checkpoint, one epoch after another.

The step itself is mae_fast.step. The host never waits for the device inside it: losses stay there and are read a window
at a time.
"""

import argparse
import logging
import math
import time
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from mae_fast import distributed
from mae_fast.checkpoint import load_weights, read_state
from mae_fast.config import PRESETS
from mae_fast.data import make_loader, open_source
from mae_fast.data.cpus import available_cpus
from mae_fast.fp8 import require_float8, use_float8
from mae_fast.heap import keep_freed_memory
from mae_fast.interrupt import Interrupted, StopSignal
from mae_fast.memory import choose_batch_size
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.ops import kernels
from mae_fast.optim import lr_at, make_optimizer
from mae_fast.report import Report
from mae_fast.resume import Position, batch_size_of, load_run, newest_checkpoint, save_run
from mae_fast.step import TrainingStep

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
logger = logging.getLogger(__name__)
WINDOW = {"cuda": 20, "cpu": 1}  # steps between two looks at the losses; on the CPU there is nothing to wait for
PATIENCE = 5  # non-finite losses in a row before the run gives up


class Diverged(RuntimeError):
    """Several steps in a row had no finite loss."""


@dataclass
class Run:
    args: argparse.Namespace
    world: distributed.World
    device: torch.device
    step: TrainingStep
    loader: object
    position: Position
    stop: StopSignal
    report: Report | None = None  # rank 0 alone
    last_checkpoint: Path | None = None
    non_finite: int = 0  # in a row, so far
    window: list[tuple[float, float, Tensor]] = field(default_factory=list)  # (fractional epoch, lr, loss) not yet read
    warned_images: int = 0

    @property
    def batches(self) -> int:
        """Used of an epoch; the rest would never reach an optimizer step."""
        return len(self.loader) // self.args.accum_iter * self.args.accum_iter


def pretrain(args: argparse.Namespace, model: MaskedAutoencoderViT | None = None) -> None:
    """Run `mae-fast pretrain`. args: the settings of mae_fast.recipe. Raises Interrupted after a signal, Diverged.

    model: trained in place of a new one of the size args.model.
    """
    run = set_up(args, model)
    started, first_epoch, first_batch = time.perf_counter(), run.position.epoch, run.position.batch
    try:
        for _ in range(run.position.epoch, args.epochs):
            train_one_epoch(run)
            finish_epoch(run)
    finally:
        run.stop.restore()
        if run.report:
            run.report.close()
        distributed.shutdown()
    batches = (args.epochs - first_epoch) * run.batches - first_batch  # none where a run was stopped at its last step
    if batches > 0 and not run.step.taken.item():
        raise Diverged("no step was taken: none had a finite loss and gradient, so the weights are those of the start")
    if run.report and batches > 0:
        rate = batches * args.batch_size * run.world.size / (time.perf_counter() - started)
        losses = run.position.losses
        counts = {"steps": run.position.skipped, "bad images": len(run.loader.bad_images)}
        skipped = "".join(f", {count} {what} skipped" for what, count in counts.items() if count)
        print(f"Trained {args.epochs} epochs: loss {losses[0]:.4f} -> {losses[-1]:.4f}, {rate:.1f} images/s{skipped}")
        if run.report.folder:
            print(f"Wrote {run.last_checkpoint}, {run.report.folder / 'log.txt'}, {run.report.folder / 'loss.png'}")


def train_one_epoch(run: Run) -> None:
    args, position, accum = run.args, run.position, run.args.accum_iter
    images = islice(run.loader.epoch(position.epoch, position.batch), run.batches - position.batch)
    for imgs in images:
        at = position.epoch + position.batch / len(run.loader)
        if position.batch % accum == 0:
            lr = lr_at(at, args, position.losses)
        loss = run.step(imgs, lr)
        position.batch += 1
        if loss is not None:  # enough batches for an update
            run.window.append((at, lr, loss))
            if len(run.window) == WINDOW[run.device.type] or position.batch == run.batches:
                read_window(run)
                stop_if_asked(run)


def read_window(run: Run) -> None:
    """The one place where the host waits for the device: bring the losses of the last steps over and report them."""
    position, args = run.position, run.args
    losses = distributed.mean_(torch.stack([loss for *_, loss in run.window])).tolist()
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
        images = len(records) * args.accum_iter * args.batch_size * run.world.size
        run.report.steps(position.epoch, records, images)
        warn_of_bad_images(run)
    if run.non_finite >= PATIENCE:
        raise Diverged(
            f"{run.non_finite} steps in a row had no finite loss (epoch {position.epoch + 1}); {last_good(run)}"
        )


def last_good(run: Run) -> str:
    return (
        f"the run stops. Last good checkpoint: {run.last_checkpoint or 'none yet'}. "
        "A lower --blr or --clip_grad 1 may help"
    )


def finish_epoch(run: Run) -> None:
    args, position = run.args, run.position
    if not all(p.isfinite().all() for p in run.step.model.parameters()):
        raise Diverged(f"weights are not finite after epoch {position.epoch + 1}; {last_good(run)}")
    epoch, steps = position.epoch, position.steps or math.nan  # no mean where every step was skipped
    train_loss, train_lr = position.loss_sum / steps, position.lr_sum / steps
    run.position = Position(
        epoch + 1, skipped=position.skipped, losses=[*position.losses, train_loss], layout=position.layout
    )
    if run.report:
        run.report.epoch(epoch, train_lr, train_loss)  # before the checkpoint: a resumed run drops what is too much
    if args.output_dir and (epoch % args.save_every == 0 or epoch + 1 == args.epochs):
        save(run, f"checkpoint-{epoch}.pth")
        if run.report:
            run.report.picture()


def stop_if_asked(run: Run) -> None:
    """After a signal to any rank: write where we are and leave by an exception."""
    signum = max(distributed.gather(run.stop.signum))
    if signum:
        if run.args.output_dir:
            save(run, "checkpoint-interrupted.pth")
        raise Interrupted(signum, run.last_checkpoint, run.world.is_main)


def save(run: Run, name: str) -> None:
    step, run.last_checkpoint = run.step, Path(run.args.output_dir) / name
    save_run(run.last_checkpoint, step.model, step.optimizer, step.scaler, run.position, run.args, run.device)


def warn_of_bad_images(run: Run) -> None:
    bad = run.loader.bad_images
    if len(bad) > run.warned_images:
        name, reason = list(bad.items())[-1]
        run.warned_images = len(bad)
        run.report.say(f"skipped {len(bad)} bad images so far, the last one {name} ({reason})")


def set_up(args: argparse.Namespace, model: MaskedAutoencoderViT | None = None) -> Run:
    """Everything before the first step: device, data, model, optimizer, and where an earlier run stopped."""
    args.device = available_device(args.device)
    if args.device == "cpu":
        keep_freed_memory()
    world = distributed.init(torch.device(args.device).type, args.dist_url, args.dist_on_itp, args.world_size)
    device = torch.device(args.device, world.local_rank if args.device == "cuda" else None)
    args.world_size = world.size
    if args.dtype == "auto":
        args.dtype = "bf16" if device.type == "cuda" else "fp32"
    torch.manual_seed(args.seed + world.rank)

    source = open_source(args.data_path)
    if model is None:
        model = MaskedAutoencoderViT(
            **PRESETS[args.model].kwargs(), img_size=args.input_size, norm_pix_loss=args.norm_pix_loss
        )
    model = model.to(device)
    if args.init_from:
        load_weights(model, read_state(args.init_from)[0], args.init_from)
        model.missing_decoder_keys = ()  # a fresh decoder is there to be trained
    model.activation_checkpointing = args.activation_checkpointing
    if args.fp8:
        require_float8(device, DTYPES[args.dtype], model.cls_token.shape[-1])
        use_float8(model)

    resume = newest_checkpoint(Path(args.output_dir)) if args.auto_resume and args.output_dir else None
    resume = Path(args.resume) if args.resume else resume
    if args.batch_size == "auto":
        args.batch_size = batch_size(args, model, max(1, len(source) // (world.size * args.accum_iter)), resume)
    loader = make_loader(
        source, args.batch_size, args.input_size, seed=args.seed, rank=world.rank, world_size=world.size,
        augment=args.augment, num_workers=min(args.num_workers, available_cpus()), device=device, backend=args.loader,
        on_bad_image=args.on_bad_image,
    )  # fmt: skip
    if len(loader) < args.accum_iter:
        raise ValueError(f"--accum_iter: {args.accum_iter} is more than an epoch's {len(loader)} batches; lower it")

    effective_batch = args.batch_size * args.accum_iter * world.size
    if args.lr is None:
        args.lr = args.blr * effective_batch / 256
    if args.min_lr > args.lr:
        raise ValueError(f"--min_lr: {args.min_lr:g} is above the learning rate, {args.lr:.2e}; lower it")
    optimizer = make_optimizer(model, args.opt, args.lr, args.weight_decay)
    step = TrainingStep(
        model, optimizer, dtype=DTYPES[args.dtype], mask_ratio=args.mask_ratio, clip_grad=args.clip_grad,
        accumulate=args.accum_iter, compile=args.compile, cuda_graphs=args.cuda_graphs,
    )  # fmt: skip

    layout = [args.batch_size, world.size, args.accum_iter, len(loader)]
    position = Position(epoch=args.start_epoch, layout=layout)
    if resume:
        position = load_run(resume, model, optimizer, step.scaler, layout, device, world.rank)

    run = Run(args, world, device, step, loader, position, StopSignal())
    run.last_checkpoint = resume
    if resume and position.epoch >= args.epochs:
        if world.is_main:
            print(f"{resume} is of a run that is already complete: {position.epoch} epochs, --epochs {args.epochs}. "
                  f"To train longer: --epochs with more than {position.epoch}")  # fmt: skip
    elif world.is_main:
        announce(run, effective_batch)
        start = position.epoch + position.batch / len(loader)
        images_per_epoch = run.batches * args.batch_size * world.size
        run.report = Report(args.output_dir, args.log_dir, args.epochs, images_per_epoch, start)
    return run


def available_device(name: str) -> str:
    """The device of that name. Plain "cuda", the official default, is the CPU where there is no GPU, with a warning.

    ValueError for one that is asked for by its number and is not there, and for what is no device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: expected cuda, cuda:N or cpu, got {name!r}") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) < count:
        return name
    if device.index is None:
        logger.warning(
            "Warning: PyTorch finds no CUDA device; training on the CPU, which --device cpu asks for by name"
        )
        return "cpu"
    there = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
    raise ValueError(f"--device: {name} is not there, PyTorch finds {there}; give one that is, or --device cpu")


def batch_size(args: argparse.Namespace, model: MaskedAutoencoderViT, limit: int, resume: Path | None) -> int:
    """--batch_size auto: that of the run to go on with, else the largest that fits, at most limit."""
    batch = resume and batch_size_of(resume)
    if batch:
        why = f"batch size {batch}: that of {resume}"
    else:
        moments = {"adamw": 2, "sgd": 1}[args.opt]
        batch, why = choose_batch_size(model, DTYPES[args.dtype], args.mask_ratio, limit, moments)
    if distributed.rank() == 0:
        print(why)
    return batch


def announce(run: Run, effective_batch: int) -> None:
    args, params = run.args, sum(p.numel() for p in run.step.model.parameters() if p.requires_grad)
    print(f"{args.model}, {params / 1e6:.1f} M parameters, {args.dtype}{', encoder fp8' * args.fp8} "
          f"on {run.device} x {run.world.size}")  # fmt: skip
    print(f"kernels: {kernels(run.device.type)}")
    print(f"{run.batches * effective_batch // args.accum_iter} images an epoch, loader {run.loader.backend}; "
          f"effective batch {effective_batch}, lr {args.lr:.2e}")  # fmt: skip
    if args.warmup_epochs >= args.epochs:
        print(f"warmup_epochs {args.warmup_epochs:g} >= epochs {args.epochs}: the learning rate only rises")
    if run.last_checkpoint:
        print(f"Going on from {run.last_checkpoint}, epoch {run.position.epoch + 1}, batch {run.position.batch}")
