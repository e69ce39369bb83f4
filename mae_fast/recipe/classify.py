"""What `mae-fast finetune` and `mae-fast linprobe` are asked for.

Defaults are those of the official main_finetune.py and main_linprobe.py (He et al. 2022, tables 9 and 10).
"""

from dataclasses import dataclass
from typing import ClassVar

from mae_fast.config import CLASSIFIERS
from mae_fast.recipe.pretrain import Data, Pretrain, Schedule
from mae_fast.setting import Checked, Recipe, as_in, official


@dataclass(frozen=True)
class Pictures(Checked):
    """Which labelled images a run sees, in which batches, and who loads them."""

    data_path: str = as_in(Data, "data_path", help="folder with a folder for each class in train/ and val/, or CIFAR")
    batch_size: int = official(int, 64, "images per process and forward pass", at_least=1)
    input_size: int | tuple[int, ...] = as_in(Data, "input_size")
    num_workers: int = as_in(Data, "num_workers")
    pin_mem: bool = as_in(Data, "pin_mem")
    loader: str = as_in(Data, "loader")
    on_bad_image: str = as_in(Data, "on_bad_image")
    loader_timeout: float = as_in(Data, "loader_timeout")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of images in pixels."""
        return self.input_size if isinstance(self.input_size, tuple) else (self.input_size, self.input_size)


@dataclass(frozen=True)
class Classify(Recipe):
    """What finetuning and the linear probe have in common."""

    model: str | None = official(
        str, None, f"by default the checkpoint's, and without one {CLASSIFIERS[0]}", choices=CLASSIFIERS
    )
    finetune: str = official(str, "", "pretrained weights: official .pth, Hugging Face directory, timm or ours")
    nb_classes: int | None = official(int, None, "classes; by default as many as the data have", at_least=2)
    cls_token: bool = official(bool, False, "classify the class token, not the mean patch")
    accum_iter: int = as_in(Pretrain, "accum_iter")
    eval: bool = official(bool, False, "evaluate the classifier that resume names, and train nothing")
    dist_eval: bool = official(bool, False, "no effect: processes always share the evaluation, each image once")
    output_dir: str = as_in(Pretrain, "output_dir", help="checkpoints, log.txt and confusion.png; empty: save nothing")
    log_dir: str = as_in(Pretrain, "log_dir")
    device: str = as_in(Pretrain, "device")
    seed: int = as_in(Pretrain, "seed")
    resume: str = as_in(Pretrain, "resume", help="checkpoint of such a run to go on from, ours or official")
    world_size: int = as_in(Pretrain, "world_size")
    local_rank: int = as_in(Pretrain, "local_rank")
    dist_on_itp: bool = as_in(Pretrain, "dist_on_itp")
    dist_url: str = as_in(Pretrain, "dist_url")
    grad_dtype: str = as_in(Pretrain, "grad_dtype")
    dtype: str = as_in(Pretrain, "dtype")
    compile: bool | None = as_in(Pretrain, "compile", help="torch.compile the step; by default on CUDA")
    cuda_graphs: bool | None = as_in(Pretrain, "cuda_graphs")
    auto_resume: bool = as_in(Pretrain, "auto_resume")
    save_every: int = as_in(Pretrain, "save_every")

    def __post_init__(self):
        super().__post_init__()
        if self.eval and not self.resume:
            raise ValueError("eval: needs resume, a checkpoint of finetune or linprobe to evaluate")

    @property
    def pooled(self) -> bool:
        """Whether the mean patch is classified, not the class token."""
        return self.global_pool and not self.cls_token


@dataclass(frozen=True)
class FinetuneSchedule(Schedule):
    epochs: int = as_in(Schedule, "epochs", default=50)
    warmup_epochs: float = as_in(Schedule, "warmup_epochs", default=5)
    min_lr: float = as_in(Schedule, "min_lr", default=1e-6)


@dataclass(frozen=True)
class Finetune(Classify):
    """What `mae-fast finetune` is asked for: all weights are trained (table 9)."""

    PARTS: ClassVar = {"data": Pictures, "schedule": FinetuneSchedule}

    data: Pictures = Pictures()
    schedule: FinetuneSchedule = FinetuneSchedule()
    global_pool: bool = official(bool, True, "classify the mean patch, normed (fc_norm)")
    drop_path: float = official(float, 0.1, "share of branches left out in the last block", at_least=0, at_most=0.99)
    weight_decay: float = as_in(Pretrain, "weight_decay")
    layer_decay: float = official(float, 0.75, "factor of the learning rate from each layer to the one below", above=0)
    clip_grad: float | None = official(float, None, "largest gradient norm; 0 or none: not clipped", at_least=0)
    color_jitter: float | None = official(float, None, "strength of colour changes, where aa is none", at_least=0)
    aa: str = official(str, "rand-m9-mstd0.5-inc1", "RandAugment, as timm writes its settings, or none")
    smoothing: float = official(float, 0.1, "label smoothing", at_least=0, at_most=1)
    reprob: float = official(float, 0.25, "share of pictures with a rectangle erased", at_least=0, at_most=1)
    remode: str = official(str, "pixel", "what erased pixels become", choices=("pixel", "rand", "const"))
    recount: int = official(int, 1, "rectangles erased at most", at_least=1)
    resplit: bool = official(bool, False, "no effect: there is one view of each picture")
    mixup: float = official(float, 0.0, "alpha of mixup; 0: none", at_least=0)
    cutmix: float = official(float, 0.0, "alpha of cutmix; 0: none", at_least=0)
    cutmix_minmax: tuple[float, ...] | None = official(
        float,
        None,
        "smallest and largest side of cutmix, as a share; overrides cutmix",
        several=True,
        at_least=0,
        at_most=1,
    )
    mixup_prob: float = official(float, 1.0, "share of batches that are mixed", at_least=0, at_most=1)
    mixup_switch_prob: float = official(float, 0.5, "of those, share of cutmix, with both on", at_least=0, at_most=1)
    mixup_mode: str = official(str, "batch", "what is mixed alike", choices=("batch", "pair", "elem"))

    def __post_init__(self):
        super().__post_init__()
        sides = self.cutmix_minmax
        if sides is not None and not (isinstance(sides, tuple) and len(sides) == 2 and sides[0] < sides[1]):
            raise ValueError(f"cutmix_minmax: expected two numbers, the smaller first, such as 0.2 0.8; got {sides}")
        if self.mixes and self.data.batch_size % 2:
            raise ValueError(f"batch_size: {self.data.batch_size} is odd; mixup and cutmix mix images in pairs")

    @property
    def mixes(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None


@dataclass(frozen=True)
class ProbePictures(Pictures):
    batch_size: int = as_in(Pictures, "batch_size", default=512)


@dataclass(frozen=True)
class ProbeSchedule(Schedule):
    epochs: int = as_in(Schedule, "epochs", default=90)
    warmup_epochs: float = as_in(Schedule, "warmup_epochs", default=10)
    blr: float = as_in(Schedule, "blr", default=0.1)


@dataclass(frozen=True)
class Linprobe(Classify):
    """What `mae-fast linprobe` is asked for: one linear layer is trained on features that stay (table 10)."""

    PARTS: ClassVar = {"data": ProbePictures, "schedule": ProbeSchedule}

    data: ProbePictures = ProbePictures()
    schedule: ProbeSchedule = ProbeSchedule()
    global_pool: bool = official(bool, False, "classify the mean patch, normed")
    weight_decay: float = as_in(Pretrain, "weight_decay", default=0.0)
