"""Training: a recipe -> a checkpoint, on one process or many."""

from mae_fast.recipe import Data, Pretrain, Schedule
from mae_fast.train.loop import Diverged, pretrain
from mae_fast.train.losses import Adversarial, Perceptual
from mae_fast.train.machine import available_device

__all__ = ["Adversarial", "Data", "Diverged", "Perceptual", "Pretrain", "Schedule", "available_device", "pretrain"]
