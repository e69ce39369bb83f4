"""A recipe -> a run: device, data, model, optimizer, and where an earlier run stopped. All before the first step."""

import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mae_fast.config import DTYPES, PRESETS
from mae_fast.data import make_loader, open_source
from mae_fast.data.loader import Loader, available_cpus
from mae_fast.files.checkpoint import load_weights, read_state
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.ops import kernels
from mae_fast.recipe import Pretrain, Schedule
from mae_fast.train import distributed
from mae_fast.train.batch_size import choose_batch_size
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.interrupt import StopSignal
from mae_fast.train.loss import MAELoss
from mae_fast.train.optim import make_optimizer
from mae_fast.train.report import Report
from mae_fast.train.run_state import Position, batch_size_of, load_run, newest_checkpoint
from mae_fast.train.step import TrainingStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resolved:
    """What a recipe leaves open, as this machine, this model and these data settle it."""

    model: str
    device: torch.device
    world: distributed.World
    dtype: str
    batch_size: int
    schedule: Schedule  # with its absolute lr

    def settings(self, recipe: Pretrain) -> dict:
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

    recipe: Pretrain
    resolved: Resolved
    model: nn.Module
    step: TrainingStep
    loader: Loader
    position: Position
    stop: StopSignal
    report: Report | None = None  # rank 0 alone
    last_checkpoint: Path | None = None
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


def assemble(recipe: Pretrain, model: MaskedAutoencoderViT | None = None) -> Run:
    """Make a run of a recipe. model: trained in place of a new one of the size recipe.model."""
    if not isinstance(recipe, Pretrain):
        raise TypeError(f"recipe: expected a Pretrain, as Pretrain.of(**settings) makes; got {type(recipe).__name__}")
    data = recipe.data
    name = available_device(recipe.device)
    if name == "cpu":
        keep_freed_memory()
    world = distributed.init(torch.device(name).type, recipe.dist_url, recipe.dist_on_itp, recipe.world_size)
    device = torch.device(name, world.local_rank if name == "cuda" else None)
    dtype = recipe.dtype if recipe.dtype != "auto" else "bf16" if device.type == "cuda" else "fp32"
    torch.manual_seed(recipe.seed + world.rank)

    source = open_source(data.data_path)
    model_name = recipe.model if model is None else type(model).__name__
    model = initialised(recipe, model).to(device)

    resume = newest_checkpoint(Path(recipe.output_dir)) if recipe.auto_resume and recipe.output_dir else None
    resume = Path(recipe.resume) if recipe.resume else resume
    batch_size = data.batch_size
    if batch_size == "auto":
        limit = max(1, len(source) // (world.size * recipe.accum_iter))
        batch_size = largest_batch(recipe, model, DTYPES[dtype], limit, resume)
    loader = make_loader(
        source, batch_size, data.input_size, seed=recipe.seed, rank=world.rank, world_size=world.size,
        augment=data.augment, num_workers=min(data.num_workers, available_cpus()), device=device, backend=data.loader,
        on_bad_image=data.on_bad_image,
    )  # fmt: skip
    if len(loader) < recipe.accum_iter:
        raise ValueError(f"accum_iter: {recipe.accum_iter} is more than an epoch's {len(loader)} batches; lower it")

    schedule = recipe.schedule.at_batch(batch_size * recipe.accum_iter * world.size)
    optimizer = make_optimizer(model, recipe.opt, schedule.lr, recipe.weight_decay)
    step = TrainingStep(
        MAELoss(model, recipe.mask_ratio), optimizer, dtype=DTYPES[dtype], clip_grad=recipe.clip_grad,
        accumulate=recipe.accum_iter, compile=recipe.compile, cuda_graphs=recipe.cuda_graphs,
    )  # fmt: skip

    layout = [batch_size, world.size, recipe.accum_iter, len(loader)]
    position = Position(epoch=schedule.start_epoch, layout=layout)
    if resume:
        position = load_run(resume, model, optimizer, step.scaler, layout, device, world.rank)
    resolved = Resolved(model_name, device, world, dtype, batch_size, schedule)
    run = Run(recipe, resolved, model, step, loader, position, StopSignal(), last_checkpoint=resume)
    if world.is_main:
        begin_report(run)
    return run


def initialised(recipe: Pretrain, model: MaskedAutoencoderViT | None) -> MaskedAutoencoderViT:
    """The given model, or a new one of the recipe's size, with the weights of init_from where that is set."""
    if model is None:
        size = PRESETS[recipe.model].kwargs()
        model = MaskedAutoencoderViT(**size, img_size=recipe.data.input_size, norm_pix_loss=recipe.norm_pix_loss)
    if recipe.init_from:
        load_weights(model, read_state(recipe.init_from)[0], recipe.init_from)
        model.missing_decoder_keys = ()  # a fresh decoder is there to be trained
    model.activation_checkpointing = recipe.activation_checkpointing
    return model


def available_device(name: str) -> str:
    """The device of that name. Plain "cuda", the official default, is the CPU where there is no GPU, with a warning.

    ValueError for a numbered device that is not there, and for a name that is no device's.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected cuda, cuda:N or cpu, got {name!r}") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) < count:
        return name
    if device.index is None:
        logger.warning("Warning: PyTorch finds no CUDA device; training on the CPU, which device cpu asks for by name")
        return "cpu"
    there = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
    raise ValueError(f"device: {name} is not there, PyTorch finds {there}; give one that is, or device cpu")


def largest_batch(recipe: Pretrain, model: nn.Module, dtype: torch.dtype, limit: int, resume: Path | None) -> int:
    """batch_size auto: that of the run to go on with, else the largest that fits, at most limit."""
    batch = resume and batch_size_of(resume)
    if batch:
        why = f"batch size {batch}: that of {resume}"
    else:
        moments = {"adamw": 2, "sgd": 1}[recipe.opt]
        batch, why = choose_batch_size(model, dtype, recipe.mask_ratio, limit, moments)
    if distributed.rank() == 0:
        logger.info(why)
    return batch


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
    start = position.epoch + position.batch / len(run.loader)
    run.report = Report(recipe.output_dir, recipe.log_dir, epochs, run.batches * run.images_per_batch, start)


def announce(run: Run) -> None:
    resolved, schedule = run.resolved, run.resolved.schedule
    parameters = sum(p.numel() for p in run.step.parameters) / 1e6
    where = f"{resolved.dtype} on {resolved.device} x {resolved.world.size}"
    logger.info("%s, %.1f M parameters, %s", resolved.model, parameters, where)
    logger.info("kernels: %s", kernels(resolved.device.type))
    logger.info(
        "%d images an epoch, loader %s; effective batch %d, lr %.2e",
        run.batches * run.images_per_batch, run.loader.backend, run.images_per_batch * run.recipe.accum_iter,
        schedule.lr,
    )  # fmt: skip
    if schedule.warmup_epochs >= schedule.epochs:
        logger.info(
            "warmup_epochs %g >= epochs %d: the learning rate only rises", schedule.warmup_epochs, schedule.epochs
        )
    if run.last_checkpoint:
        epoch, batch = run.position.epoch + 1, run.position.batch
        logger.info("Going on from %s, epoch %d, batch %d", run.last_checkpoint, epoch, batch)
