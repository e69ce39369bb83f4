"""A recipe -> a run: device, data, model, optimizer, and where an earlier run stopped. All before the first step."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mae_fast.config import DTYPES, MASKS, PRESETS, STREAMS
from mae_fast.data import make_loader, open_source, pixels_of
from mae_fast.data.loader import available_cpus
from mae_fast.files.channels import with_channels
from mae_fast.files.checkpoint import load_weights, read_state
from mae_fast.files.lock import FolderLock
from mae_fast.files.mask import load_mask
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.model.masking import SampleNoise, fixed, uniform
from mae_fast.pixels import Pixels
from mae_fast.recipe import Classify, Pretrain
from mae_fast.train import distributed, parallel
from mae_fast.train.announce import begin_report
from mae_fast.train.batch_size import choose_batch_size
from mae_fast.train.heap import keep_freed_memory
from mae_fast.train.interrupt import StopSignal
from mae_fast.train.losses import MAELoss
from mae_fast.train.machine import available_device, products_in
from mae_fast.train.newest import checkpoint_of, how_to_go_on
from mae_fast.train.optim import make_optimizer, own_optimizers
from mae_fast.train.pictures import KeptPictures
from mae_fast.train.probe import OnlineProbe
from mae_fast.train.run import Resolved, Run
from mae_fast.train.run_state import Layout, Position, batch_size_of, load_run
from mae_fast.train.step import TrainingStep

logger = logging.getLogger(__name__)


def assemble(
    recipe: Pretrain,
    model: MaskedAutoencoderViT | None = None,
    lock: FolderLock | None = None,
    terms: Sequence[nn.Module] = (),
) -> Run:
    """Make a run of a recipe. model: trained in place of a new one of the size recipe.model; lock: of output_dir, taken
    before anything is written there; terms: added to the loss (mae_fast.train.losses)."""
    if not isinstance(recipe, Pretrain):
        raise TypeError(f"recipe: expected a Pretrain, as Pretrain.of(**settings) makes; got {type(recipe).__name__}")
    data = recipe.data
    device, world = begin(recipe, lock)
    dtype = products_in(recipe.dtype, recipe.stream, device.type)

    source = open_source(data.data_path)
    callbacks = [OnlineProbe(recipe)] if recipe.probe_every else []
    callbacks += [KeptPictures(source)] if recipe.output_dir else []
    pixels = pixels_of(source, **data.pixels) if model is None else model.pixels
    model_name = recipe.model if model is None else type(model).__name__
    model = initialised(recipe, pixels, model).to(device)

    resume = checkpoint_of(recipe)
    batch_size = data.batch_size
    if batch_size == "auto":
        limit = max(1, len(source) // (world.size * recipe.accum_iter))
        batch_size = largest_batch(recipe, model, DTYPES[dtype], limit, resume)
    loader = make_loader(
        source, batch_size, data.size, seed=recipe.seed, rank=world.rank, world_size=world.size,
        augment=data.augment, num_workers=min(data.num_workers, available_cpus()), device=device, backend=data.loader,
        on_bad_image=data.on_bad_image, timeout=data.loader_timeout,
        pixels=pixels,
    )  # fmt: skip
    if len(loader) < recipe.accum_iter:
        raise ValueError(f"accum_iter: {recipe.accum_iter} is more than an epoch's {len(loader)} batches; lower it")

    schedule = recipe.schedule.at_batch(batch_size * recipe.accum_iter * world.size)
    noise = None
    if recipe.mask != "random" or model.draw_noise is uniform:
        mask = recipe.mask if recipe.mask in MASKS else fixed(load_mask(recipe.mask))
        noise = SampleNoise(recipe.seed, device, mask)
    loss = MAELoss(model, recipe.mask_ratio, noise, masks=recipe.masks_per_image, terms=terms).to(device)
    grad_dtype = DTYPES[recipe.grad_dtype]
    if recipe.parallel == "fsdp" and world.size > 1:
        if own_optimizers(loss):
            raise ValueError("parallel: a loss with an optimizer of its own is not shared out; use ddp")
        parallel.shard(loss, device, grad_dtype)
    optimizer = make_optimizer(model, recipe.opt, schedule.lr, recipe.weight_decay)
    step = TrainingStep(
        loss, optimizer, dtype=DTYPES[dtype], clip_grad=recipe.clip_grad, accumulate=recipe.accum_iter,
        compile=recipe.compile, cuda_graphs=recipe.cuda_graphs, grad_dtype=grad_dtype,
        images=(schedule.epochs - schedule.start_epoch) * len(loader) * batch_size,
    )  # fmt: skip

    layout = Layout(batch_size, world.size, recipe.accum_iter, len(source))
    position = Position(epoch=schedule.start_epoch, layout=layout)
    if resume:
        position = load_run(resume, model, optimizer, step.scaler, layout, device, world.rank, terms)
    resolved = Resolved(model_name, device, world, dtype, batch_size, schedule)
    run = Run(
        recipe, resolved, model, step, loader, position, StopSignal(), noise, callbacks=callbacks,
        last_checkpoint=resume,
    )  # fmt: skip
    if world.is_main:
        begin_report(run)
    return run


def begin(recipe: Pretrain | Classify, lock: FolderLock | None = None) -> tuple[torch.device, distributed.World]:
    """This process's device, and its place among the others, with which it then is in a group; seeds PyTorch."""
    name = available_device(recipe.device)
    if name == "cpu":
        keep_freed_memory()
    world = distributed.init(
        torch.device(name).type, recipe.dist_url, recipe.dist_on_itp, recipe.world_size,
        timeout=1200 + recipe.data.loader_timeout, remedy=partial(how_to_go_on, recipe),
    )  # fmt: skip
    if lock and recipe.output_dir:
        distributed.by_main(lambda: lock.take(recipe.output_dir))
    torch.manual_seed(recipe.seed + world.rank)
    return torch.device(name, world.local_rank if name == "cuda" else None), world


def initialised(recipe: Pretrain, pixels: Pixels, model: MaskedAutoencoderViT | None) -> MaskedAutoencoderViT:
    """The given model, or a new one of the recipe's size, with the weights of init_from where that is set."""
    if model is None:
        size = PRESETS[recipe.model].kwargs()
        size |= {"patch_size": recipe.patch_size} if recipe.patch_size else {}
        model = MaskedAutoencoderViT(
            **size, img_size=recipe.data.size, norm_pix_loss=recipe.norm_pix_loss, in_chans=pixels.channels,
            mean=pixels.mean, std=pixels.std, pixel_type=pixels.type, value_range=pixels.value_range,
            loss=recipe.loss,
        )  # fmt: skip
    if recipe.init_from:
        state = with_channels(read_state(recipe.init_from)[0], model.in_chans, recipe.init_from)
        load_weights(model, state, recipe.init_from)
        model.missing_decoder_keys = ()  # a fresh decoder is there to be trained
    model.activation_checkpointing = recipe.activation_checkpointing
    model.stream = STREAMS[recipe.stream] or model.stream
    return model


def largest_batch(recipe: Pretrain, model: nn.Module, dtype: torch.dtype, limit: int, resume: Path | None) -> int:
    """batch_size auto: that of the run to go on with, else the largest that fits, at most limit."""
    batch = resume and batch_size_of(resume)
    if batch:
        why = f"batch size {batch}: that of {resume}"
    else:
        moments = {"adamw": 2, "sgd": 1}[recipe.opt]
        batch, why = choose_batch_size(model, dtype, recipe.mask_ratio, limit, moments, recipe.masks_per_image)
    if distributed.rank() == 0:
        logger.info(why)
    return batch
