"""Training: a recipe -> a checkpoint, on one process or many."""

from mae_fast.recipe import Data, Finetune, Linprobe, Pretrain, Schedule
from mae_fast.train.classify import classify
from mae_fast.train.loop import Diverged, pretrain
from mae_fast.train.losses import Adversarial, Perceptual
from mae_fast.train.machine import available_device

__all__ = [
    "Adversarial",
    "Data",
    "Diverged",
    "Finetune",
    "Linprobe",
    "Perceptual",
    "Pretrain",
    "Schedule",
    "available_device",
    "classify",
    "pretrain",
]
