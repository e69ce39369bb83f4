"""Finetuning and the linear probe: a recipe -> a run of the same loop and step that pretrain, and evaluation alone."""

import contextlib
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast.config import DTYPES, PRESETS
from mae_fast.data import make_eval_loader, make_loader, open_source
from mae_fast.data.augment import Augment
from mae_fast.data.evaluate import EvalLoader
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source
from mae_fast.files.classifier import classifier_of, from_pretrained, load_classifier, probe_head
from mae_fast.files.lock import FolderLock
from mae_fast.model.vit import VisionTransformer
from mae_fast.pixels import Pixels
from mae_fast.recipe import Classify, Finetune, Linprobe
from mae_fast.train import distributed
from mae_fast.train.announce import begin_report
from mae_fast.train.assemble import begin
from mae_fast.train.evaluate import Evaluation, Scores, evaluate, picture
from mae_fast.train.interrupt import StopSignal
from mae_fast.train.lars import LARS
from mae_fast.train.layer_decay import finetuning_optimizer
from mae_fast.train.loop import train
from mae_fast.train.machine import products_in
from mae_fast.train.mixing import mixing_of
from mae_fast.train.newest import checkpoint_of
from mae_fast.train.run import Resolved, Run
from mae_fast.train.run_state import Layout, Position, load_run
from mae_fast.train.step import TrainingStep

logger = logging.getLogger(__name__)


class ClassifierLoss(nn.Module):
    """Cross-entropy of a classifier: of labels, smoothed, or of targets (B, classes), as mixup gives them."""

    def __init__(self, model: VisionTransformer, smoothing: float = 0.0):
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, imgs: Tensor, labels: Tensor) -> Tensor:
        """uint8 (B, H, W, C), or float (B, C, H, W), normalised -> a scalar."""
        smoothing = 0.0 if labels.is_floating_point() else self.smoothing
        return F.cross_entropy(self.model(imgs).float(), labels, label_smoothing=smoothing)


def classify(recipe: Classify) -> Scores | None:
    """Train a classifier as the recipe says, a `Finetune` or a `Linprobe`: checkpoints, log.txt, loss.png and
    confusion.png in recipe.output_dir. With recipe.eval nothing is trained: -> the scores of the classifier it names.

    Raises what `mae_fast.train.pretrain` raises.
    """
    lock = FolderLock("output_dir")
    with distributed.leaving(), contextlib.closing(lock):
        if recipe.eval:
            return evaluate_checkpoint(recipe)
        train(assemble(recipe, lock))
    return None


def assemble(recipe: Classify, lock: FolderLock | None = None) -> Run:
    """Make a run of a recipe. lock: of output_dir, taken before anything is written there."""
    if not isinstance(recipe, Classify):
        raise TypeError(f"recipe: expected a Finetune or a Linprobe, got {type(recipe).__name__}")
    data, tuned = recipe.data, isinstance(recipe, Finetune)
    device, world = begin(recipe, lock)
    dtype = products_in(recipe.dtype, "auto", device.type)

    source = labelled(data.data_path, "train")
    classes = recipe.nb_classes or len(source.classes)
    name, model = initialised(recipe, classes)
    model.to(device)
    loader = make_loader(
        source, data.batch_size, data.size, seed=recipe.seed, rank=world.rank, world_size=world.size,
        augment=augmentation(recipe, model.pixels), num_workers=min(data.num_workers, available_cpus()), device=device,
        backend=data.loader, on_bad_image=data.on_bad_image, timeout=data.loader_timeout,
        pixels=model.pixels,
    )  # fmt: skip
    if len(loader) < recipe.accum_iter:
        raise ValueError(f"accum_iter: {recipe.accum_iter} is more than an epoch's {len(loader)} batches; lower it")
    validation = eval_loader(recipe, model.pixels, source.classes, classes, device, world)
    evaluation = Evaluation(validation, source.classes, classes, DTYPES[dtype])

    schedule = recipe.schedule.at_batch(data.batch_size * recipe.accum_iter * world.size)
    if tuned:
        optimizer = finetuning_optimizer(model, schedule.lr, recipe.weight_decay, recipe.layer_decay)
    else:
        optimizer = LARS(model.head.parameters(), lr=schedule.lr, weight_decay=recipe.weight_decay)
    step = TrainingStep(
        ClassifierLoss(model, recipe.smoothing if tuned else 0.0), optimizer, dtype=DTYPES[dtype],
        clip_grad=recipe.clip_grad if tuned else None, accumulate=recipe.accum_iter, compile=recipe.compile,
        cuda_graphs=recipe.cuda_graphs if tuned else False, grad_dtype=DTYPES[recipe.grad_dtype],
    )  # fmt: skip

    layout = Layout(data.batch_size, world.size, recipe.accum_iter, len(source))
    position, resume = Position(epoch=schedule.start_epoch, layout=layout), checkpoint_of(recipe)
    if resume:
        position = load_run(resume, model, optimizer, step.scaler, layout, device, world.rank)
    resolved = Resolved(name, device, world, dtype, data.batch_size, schedule)
    mix = mixing_of(recipe, classes, model.mean, model.std, device)
    run = Run(recipe, resolved, model, step, loader, position, StopSignal(), mix=mix, last_checkpoint=resume)
    run.callbacks.append(evaluation)
    model.train()
    if world.is_main:
        begin_report(run)
    return run


def evaluate_checkpoint(recipe: Classify) -> Scores:
    """The scores of the classifier in the checkpoint that recipe.resume names, on the validation images."""
    device, world = begin(recipe)
    dtype = DTYPES[products_in(recipe.dtype, "auto", device.type)]
    model, _ = load_classifier(recipe.resume)
    size, classes = model.patch_embed.img_size, model.num_classes
    if recipe.data.size != size:
        raise ValueError(f"input_size: {recipe.resume} is of {size[0]} x {size[1]} pixels; give input_size {size[0]}")
    names = labelled(recipe.data.data_path, "val").classes
    loader = eval_loader(recipe, model.pixels, names, classes, device, world)
    scores = evaluate(model.to(device), model, loader, classes, dtype)
    if world.is_main:
        logger.info("%s: %s", recipe.resume, scores)
        for bad, reason in loader.bad_images.items():
            logger.warning("left out: %s (%s)", bad, reason)
        if recipe.output_dir:
            Path(recipe.output_dir).mkdir(parents=True, exist_ok=True)
            logger.info("Wrote %s", picture(scores, names, recipe.output_dir))
    return scores


def labelled(path: str, split: str) -> Source:
    """The images of a split; ValueError where they have no classes."""
    source = open_source(path, split)
    if not source.classes:
        raise ValueError(f"data_path: {path} has images without classes; make a folder for each class in train and val")
    return source


def eval_loader(
    recipe: Classify, pixels: Pixels, names: list[str], classes: int, device: torch.device, world
) -> EvalLoader:
    """Of the validation images, of which each rank has its share. ValueError where their classes are not `names`."""
    data, source = recipe.data, labelled(recipe.data.data_path, "val")
    if source.classes != names:
        other = sorted({*source.classes} ^ {*names})
        raise ValueError(f"data_path: train and val of {data.data_path} have other classes: {', '.join(other[:5])}")
    if len(names) > classes:
        raise ValueError(f"nb_classes: {classes} are fewer than the {len(names)} that {data.data_path} has")
    return make_eval_loader(
        source, data.batch_size, data.size, rank=world.rank, world_size=world.size, device=device, backend=data.loader,
        num_workers=min(data.num_workers, available_cpus()), on_bad_image=data.on_bad_image,
        timeout=data.loader_timeout, pixels=pixels,
    )  # fmt: skip


def initialised(recipe: Classify, classes: int) -> tuple[str, VisionTransformer]:
    """-> the name of its size, and the classifier: on the weights that recipe.finetune names, or fresh."""
    probed = isinstance(recipe, Linprobe)
    drop_path = 0.0 if probed else recipe.drop_path
    wanted = recipe.model and PRESETS[f"mae_{recipe.model.removeprefix('mae_')}"].kwargs()
    if recipe.finetune:
        model = from_pretrained(
            recipe.finetune, classes, recipe.pooled, recipe.data.size, drop_path=drop_path,
            head_std=0.01 if probed else 2e-5, preset=wanted,
        )  # fmt: skip
    else:
        size = wanted or PRESETS["mae_vit_large_patch16"].kwargs()
        model = classifier_of(size | {"img_size": recipe.data.size}, classes, recipe.pooled, drop_path)
    if probed:
        probe_head(model)
    width, depth, patch = model.embed_dim, len(model.blocks), model.patch_embed.patch_size[0]
    sizes = {(x.embed_dim, x.depth, x.patch_size): name for name, x in PRESETS.items() if not name.endswith("8b")}
    return sizes.get((width, depth, patch), "classifier").removeprefix("mae_"), model


def augmentation(recipe: Classify, pixels: Pixels) -> Augment:
    """Finetuning: crops of 8 % up, flips and RandAugment, or changes of colour. Linear probe: the crops and flips, as
    finetuning of other pictures than 8-bit RGB, which have no such colours."""
    if isinstance(recipe, Linprobe):
        return Augment(scale=(0.08, 1.0), attempts=1)
    if pixels.mode != "RGB":
        logger.info("pictures: %s, so with no RandAugment and no color_jitter", pixels)
        return Augment(scale=(0.08, 1.0))
    policy = "" if recipe.aa in ("", "none") else recipe.aa
    fill = tuple(min(255, round(255 * x)) for x in pixels.mean)
    return Augment(scale=(0.08, 1.0), jitter=0.0 if policy else recipe.color_jitter or 0.0, policy=policy, fill=fill)
