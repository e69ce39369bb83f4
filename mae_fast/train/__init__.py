"""Training: a recipe -> a checkpoint, on one process or many."""

from mae_fast.recipe import Data, Pretrain, Schedule
from mae_fast.train.loop import Diverged, pretrain
from mae_fast.train.machine import available_device

__all__ = ["Data", "Diverged", "Pretrain", "Schedule", "available_device", "pretrain"]
