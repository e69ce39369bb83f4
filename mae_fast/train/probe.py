"""An online probe: during pretraining, how well nearest neighbours of the features so far tell classes apart."""

import logging
import time

import torch
from torch import Tensor

from mae_fast.data import make_eval_loader, open_source
from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source
from mae_fast.data.sources.subset import Subset
from mae_fast.recipe import Pretrain
from mae_fast.train import distributed, parallel
from mae_fast.train.encoding import Encoder, encode_batch
from mae_fast.train.knn import accuracy, knn_scores
from mae_fast.train.run import Run

logger = logging.getLogger(__name__)
SHARE = 0.02  # of the run's time that a probe is planned to take; what was planned for 3 % would often take more
MOST, LEAST = 4096, 256  # pictures, a quarter of them to judge by
BATCH = 32


class OnlineProbe:
    """A callback of a run: probe_knn, top-1 accuracy in percent of weighted kNN (k = 20, 0.07), after every probe_every
    epochs and the last.

    Its pictures are spread evenly over train and val; the ranks share them, read theirs once and keep the pixels. How
    many they are, 4096 at most, is chosen at the first probe by the time that an epoch took, and is a power of two, so
    that runs on the same machine choose the same. It draws no random number and leaves the weights alone.
    """

    def __init__(self, recipe: Pretrain):
        """Open the pictures. ValueError where they have no labels, or there is no val."""
        self.recipe = recipe
        path = recipe.probe_path or recipe.data.data_path
        wanted = "wants labelled pictures, train/CLASS/ and val/CLASS/; give a folder that has them as probe_path"
        try:
            self.train, self.val = (open_source(path, split) for split in ("train", "val"))
        except FileNotFoundError as error:
            raise ValueError(f"probe_every: {wanted} ({error})") from None
        if not self.train.classes or self.train.classes != self.val.classes:
            why = "no labels" if not self.train.classes else "train and val have other classes"
            raise ValueError(f"probe_every: {wanted} ({path}: {why})")
        if min(len(self.train), len(self.val)) < distributed.size():
            raise ValueError(f"probe_every: wants a picture of train and of val for each process ({path})")
        self.pixels: list[tuple[Tensor, Tensor]] = []  # of train and val: this rank's images and labels
        self.seconds = 0.0  # of the last probe

    def __call__(self, run: Run, epoch: int) -> dict[str, float]:
        epochs = run.resolved.schedule.epochs
        if (epoch + 1) % self.recipe.probe_every and epoch + 1 < epochs:
            return {}
        try:
            return {"probe_knn": self.judge(run, epoch, time.perf_counter() - run.epoch_began)}
        except torch.OutOfMemoryError:
            if run.resolved.world.size > 1:  # where the other ranks wait for this one's features
                raise
            logger.warning("Warning: probe_every: no memory for a probe beside the step; the run goes on without one")
            return {}

    def judge(self, run: Run, epoch: int, took: float) -> float:
        """The accuracy after an epoch, which took so many seconds."""
        if not self.pixels:
            self.choose(run, epoch, took)
        began = time.perf_counter()
        shares = [(self.encode(run, imgs), labels) for imgs, labels in self.pixels]
        (train, train_labels), (val, val_labels) = (  # one after another, as the ranks' features come
            [torch.cat(parts) for parts in zip(*distributed.gather(share), strict=True)] for share in shares
        )
        scores = knn_scores(train, train_labels, val, len(self.train.classes))
        self.seconds = time.perf_counter() - began
        return accuracy(scores, val_labels)

    def choose(self, run: Run, epoch: int, took: float) -> None:
        """Read as many pictures as fit into the time of the epochs that the probes from this one on are about."""
        every, left = self.recipe.probe_every, run.resolved.schedule.epochs - epoch - 1
        seconds, probes = took * (left + min(every, epoch + 1)), 1 + -(-left // every)
        began = time.perf_counter()
        imgs, _ = self.read(run, self.train, BATCH * run.resolved.world.size)
        reading = (time.perf_counter() - began) / len(imgs)
        self.encode(run, imgs)  # the first time takes longer
        began = time.perf_counter()
        self.encode(run, imgs)
        encoding = (time.perf_counter() - began) / len(imgs)
        world = run.resolved.world
        count = distributed.gather(affordable(SHARE * seconds * world.size, reading + probes * encoding))[0]
        self.pixels = [self.read(run, self.train, count * 3 // 4), self.read(run, self.val, count // 4)]
        share = sum(len(imgs) for imgs, _ in self.pixels)
        if world.is_main:
            logger.info("Online probe: kNN of %d pictures, %.2g s each time", share * world.size, share * encoding)
            if probes * share * encoding > 0.03 * seconds:
                logger.warning(
                    "Warning: probe_every: probes take more than 3 %% of the time; a larger number makes it less"
                )

    def read(self, run: Run, source: Source, count: int) -> tuple[Tensor, Tensor]:
        """This rank's share of so many pictures, uint8 (B, H, W, C), and their labels; as many on every rank."""
        data, world = self.recipe.data, run.resolved.world
        loader = make_eval_loader(
            Subset(source, count, world.rank, world.size), BATCH, run.model.patch_embed.img_size,
            num_workers=min(data.num_workers, available_cpus()), backend=data.loader, timeout=data.loader_timeout,
            pixels=run.model.pixels,
        )  # fmt: skip
        imgs, labels = map(torch.cat, zip(*loader.epoch(0), strict=True))
        least = min(distributed.gather(len(imgs)))  # bad ones are left out; FSDP wants all ranks in a pass
        return imgs[:least], labels[:least]

    def encode(self, run: Run, imgs: Tensor) -> Tensor:
        """Features of the class token, (B, D), on the CPU."""
        encoder, dtype = Encoder(run.model), run.step.dtype
        with parallel.together(run.step.module):
            return torch.cat([encode_batch(encoder, some, dtype) for some in imgs.split(BATCH)]).cpu()


def affordable(seconds: float, each: float) -> int:
    """The largest power of two of pictures that take `each` seconds apiece, from LEAST to MOST."""
    count = MOST
    while count > LEAST and count * each > seconds:
        count //= 2
    return count
