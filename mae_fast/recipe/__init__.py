"""What a run is asked for: a file a kind of run, every setting once, with its type, default, range and help.

Flags, the keys of a --config file and those of a tutorial's dictionary are made from these fields and held to their
ranges. A recipe is frozen: what a run makes of it (`mae_fast.train.assemble.Resolved`) is another object.
"""

from mae_fast.recipe.classify import Classify, Finetune, Linprobe
from mae_fast.recipe.pretrain import PARTS, SETTINGS, Data, Pretrain, Schedule

__all__ = ["PARTS", "SETTINGS", "Classify", "Data", "Finetune", "Linprobe", "Pretrain", "Schedule"]
