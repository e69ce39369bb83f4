"""What `mae-fast pretrain` is asked for."""

from dataclasses import dataclass, replace
from typing import Any, Self

from mae_fast.config import DTYPES, LOSSES, MASKS, PRESETS, STREAMS
from mae_fast.setting import Checked, Recipe, Setting, official, ours


@dataclass(frozen=True)
class Data(Checked):
    """Which images a run sees, in which batches, and who loads them."""

    data_path: str = official(str, "/datasets01/imagenet_full_size/061417/", "folder of images, or CIFAR files")
    batch_size: int | str = official(
        int, 64, "images per process and forward pass; auto: all that fit", at_least=1, words=("auto",)
    )
    input_size: int | tuple[int, ...] = official(
        int, 224, "image side in pixels, or height and width", at_least=1, several=True
    )
    in_chans: int = ours(int, 3, "channels of the pictures", at_least=1)
    mean: float | tuple[float, ...] | None = ours(
        float,
        None,
        "of each channel, in parts of value_range (default: ImageNet's for 3 channels, else 0.5)",
        several=True,
    )
    std: float | tuple[float, ...] | None = ours(
        float, None, "of each channel (default: ImageNet's for 3 channels, else 0.5)", above=0, several=True
    )
    value_range: tuple[float, ...] | None = ours(
        float, None, "values in files that become 0 and 1 (default: 0 255, 0 65535, or 0 1 for floats)", several=True
    )
    num_workers: int = official(int, 10, "loader threads (DALI) or processes (Pillow), at most one a CPU", at_least=0)
    pin_mem: bool = official(bool, True, "no effect: batches for a GPU are always pinned")
    augment: str = ours(str, "light", "light is the paper's", choices=("light", "medium", "strong"))
    loader: str = ours(str, "auto", choices=("auto", "dali", "pillow"))
    on_bad_image: str = ours(
        str,
        "skip",
        "unreadable, CMYK, palette, of other channels or bits: skip and count, stop and name, or convert what can be",
        choices=("skip", "stop", "convert"),
    )
    loader_timeout: float = ours(float, 600, "seconds to wait for a batch before the run stops and saves", above=0)

    def __post_init__(self):
        super().__post_init__()
        counts = {"input_size": 2, "mean": self.in_chans, "std": self.in_chans, "value_range": 2}
        for name, count in counts.items():
            value = getattr(self, name)
            if (name == "input_size" and isinstance(value, int)) or value is None:
                continue
            values = value if isinstance(value, tuple) else (value,)
            if len(values) != count:
                why = " (in_chans)" if count == self.in_chans and name != "value_range" else ""
                raise ValueError(f"{name}: expected {count} number{'s' * (count > 1)}{why}, got {len(values)}")
        if self.value_range and not self.value_range[0] < self.value_range[1]:
            raise ValueError(f"value_range: expected the lower number first, got {self.value_range}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of images in pixels."""
        return self.input_size if isinstance(self.input_size, tuple) else (self.input_size, self.input_size)

    @property
    def pixels(self) -> dict[str, Any]:
        """What is asked of the pixels, as mae_fast.data.pixels_of takes it."""
        mean, std = ((x,) if isinstance(x, float | int) else x for x in (self.mean, self.std))
        return {"channels": self.in_chans, "value_range": self.value_range, "mean": mean, "std": std}


@dataclass(frozen=True)
class Schedule(Checked):
    """How long a run trains, and at which learning rate (He et al. 2022, appendix A.1)."""

    epochs: int = official(int, 400, at_least=1)
    start_epoch: int = official(int, 0, at_least=0)
    warmup_epochs: float = official(float, 40, "epochs over which the learning rate rises from 0", at_least=0)
    lr: float | None = official(float, None, "absolute learning rate (default: from blr)", at_least=0)
    blr: float = official(float, 1e-3, "base learning rate: lr = blr * effective batch / 256", at_least=0)
    min_lr: float = official(float, 0.0, "learning rate that the schedule ends at, at most lr", at_least=0)
    sched: str = ours(str, "cosine", choices=("cosine", "step", "plateau"))
    decay_epochs: int = ours(int, 30, "epochs between drops of sched step", at_least=1)
    decay_rate: float = ours(float, 0.1, "factor of a drop of sched step or plateau", above=0, at_most=1)
    patience_epochs: int = ours(int, 10, "epochs without a better loss before sched plateau drops", at_least=0)

    def __post_init__(self):
        super().__post_init__()
        if self.lr is not None and self.min_lr > self.lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above lr {self.lr:g}; lower it")
        if self.start_epoch >= self.epochs:
            raise ValueError(f"start_epoch: {self.start_epoch} leaves nothing to train of epochs {self.epochs}")

    def at_batch(self, effective_batch: int) -> Self:
        """The schedule with its absolute learning rate: lr, or blr for batches of so many images in all."""
        lr = self.blr * effective_batch / 256 if self.lr is None else self.lr
        if self.min_lr > lr:
            raise ValueError(f"min_lr: {self.min_lr:g} is above the learning rate, {lr:.2e}; lower it")
        return replace(self, lr=lr)


@dataclass(frozen=True)
class Pretrain(Recipe):
    """What `mae-fast pretrain` is asked for."""

    data: Data = Data()
    schedule: Schedule = Schedule()
    model: str = official(str, "mae_vit_large_patch16", ", ".join(PRESETS), choices=tuple(PRESETS))
    patch_size: int | None = ours(int, None, "pixels of a patch's side (default: the model's)", at_least=1)
    mask_ratio: float = official(float, 0.75, "share of patches removed", above=0, at_most=1)
    norm_pix_loss: bool = official(bool, False, "predict patches normalised by their own mean and variance")
    accum_iter: int = official(int, 1, "forward passes per optimizer step", at_least=1)
    weight_decay: float = official(float, 0.05, at_least=0)
    output_dir: str = official(str, "./output_dir", "checkpoints and log.txt; empty to save nothing")
    log_dir: str = official(str, "./output_dir", "TensorBoard events; empty for none")
    device: str = official(str, "cuda", "cuda, cuda:N or cpu; plain cuda falls back to the CPU where there is no GPU")
    seed: int = official(int, 0, at_least=0, at_most=2**63 - 1)
    resume: str = official(str, "", "checkpoint to go on from, ours or official")
    world_size: int = official(int, 1, "processes, where Slurm started them", at_least=1)
    local_rank: int = official(int, -1, "no effect: the launcher sets it", at_least=-1)
    dist_on_itp: bool = official(bool, False, "processes were started by Open MPI")
    dist_url: str = official(str, "env://", "where processes meet")

    parallel: str = ours(
        str,
        "ddp",
        "of several processes each has a copy of the model (ddp) or a share of it (fsdp)",
        choices=("ddp", "fsdp"),
    )
    grad_dtype: str = ours(str, "fp32", "type in which processes exchange gradients", choices=("fp32", "bf16"))
    dtype: str = ours(
        str, "auto", "auto: bf16 on CUDA and on CPUs that multiply it, else fp32", choices=("auto", *DTYPES)
    )
    stream: str = ours(
        str,
        "auto",
        "type of the residual stream; auto: bf16 where products are bf16 on CUDA, else fp32",
        choices=tuple(STREAMS),
    )
    compile: bool | None = ours(
        bool, None, "torch.compile the step; by default on CUDA, and on a CPU for a run of more than two hours"
    )
    cuda_graphs: bool | None = ours(
        bool, None, "run the whole step as one CUDA graph; by default where it is compiled, on one GPU"
    )
    activation_checkpointing: bool = ours(bool, False, "less memory for a third more arithmetic")
    clip_grad: float | None = ours(float, None, "largest gradient norm; 0 or none: not clipped", at_least=0)
    opt: str = ours(str, "adamw", choices=("adamw", "sgd"))
    init_from: str = ours(str, "", "weights to start from: official .pth, Hugging Face directory or ours")
    auto_resume: bool = ours(bool, False, "go on from the newest checkpoint in output_dir, if any")
    save_every: int = ours(int, 20, "epochs between checkpoints", at_least=1)
    probe_every: int = ours(int, 0, "epochs between kNN accuracies of the features, in the log; 0: none", at_least=0)
    probe_path: str = ours(str, "", "labelled pictures for them, train/ and val/; default data_path")
    loss: str = ours(str, "mse", "error of predicted pixels; bce: of logits, without norm_pix_loss", choices=LOSSES)
    mask: str = ours(
        str, "random", f"{', '.join(MASKS)}, or a file of a number a patch, the highest removed first (.npy, picture)"
    )
    masks_per_image: int = ours(int, 1, "masks drawn of each decoded image, all in one step", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.resume and self.init_from:
            raise ValueError("resume and init_from: give one; resume goes on with a run, init_from starts a new one")
        if self.loss == "bce" and self.norm_pix_loss:
            raise ValueError("loss: bce predicts pixels in 0..1, and norm_pix_loss makes others; give one of the two")


PARTS = Pretrain.PARTS = {"data": Data, "schedule": Schedule}
SETTINGS: dict[str, Setting] = Pretrain.settings()
