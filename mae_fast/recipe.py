"""Every setting of a pretraining run, once: name, type, default, range and help.

The flags of `mae-fast pretrain`, the keys of a --config file and those of a tutorial's dictionary are made from these
fields and held to their ranges.
"""

import argparse
import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from mae_fast.config import PRESETS


@dataclass(frozen=True)
class Setting:
    """What holds for the values of one field. kind: int, float, str or bool; words: values allowed besides.

    at_least, above, at_most: bounds of a number, `above` excluded. official: a flag of the official main_pretrain.py.
    """

    kind: type
    default: Any
    help: str
    official: bool
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf

    def read(self, value: Any) -> Any:
        """A value as text or YAML gives it -> the same in the setting's type, not yet held to its range.

        None fits where it is the default. Raises ValueError saying which values fit.
        """
        if value in self.words or (value is None and self.default is None):
            return value
        try:
            if self.kind is int and isinstance(value, float) and value.is_integer():
                value = int(value)
            if self.kind is bool:
                fits = isinstance(value, bool)
            else:
                value = self.kind(str(value)) if value is not None and not isinstance(value, bool) else None
                fits = value is not None and (not self.choices or value in self.choices)
        except ValueError:
            fits = False
        if not fits:
            expected = ", ".join(self.choices) or ("true or false" if self.kind is bool else self.kind.__name__)
            raise ValueError(expected)
        return value

    def check(self, value: Any) -> None:
        """ValueError saying what was expected of a number out of range, not finite, or of an unknown choice."""
        if self.choices and value not in self.choices:
            raise ValueError(f"expected one of {', '.join(self.choices)}, got {value!r}")
        if self.kind not in (int, float) or value in self.words or value is None:
            return
        if not (math.isfinite(value) and self.at_least <= value <= self.at_most and value > self.above):
            raise ValueError(f"expected {self.range}, got {value}")

    @property
    def range(self) -> str:
        """The bounds in words, empty of what has none."""
        bounds = [
            f"{text} {bound}"
            for text, bound in (("more than", self.above), ("at least", self.at_least), ("at most", self.at_most))
            if math.isfinite(bound)
        ]
        return ", ".join(bounds)

    def describe(self) -> str:
        """A line for --help: meaning, range, default."""
        default = "" if self.default in (None, "") or self.kind is bool else f"default {self.default}"
        return "; ".join(filter(None, [self.help, self.range, default]))


def official(kind: type, default: Any, help: str = "", **limits) -> Any:
    """A flag of the official main_pretrain.py: same name, same default."""
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, default, help, True, **limits)})


def ours(kind: type, default: Any, help: str = "", **limits) -> Any:
    return dataclasses.field(default=default, metadata={"setting": Setting(kind, default, help, False, **limits)})


@dataclass(frozen=True)
class Pretrain:
    """What `mae-fast pretrain` is asked for. Source of the official defaults: He et al. 2022, appendix A.1."""

    batch_size: int | str = official(
        int, 64, "images per process and forward pass; auto: all that fit", at_least=1, words=("auto",)
    )
    epochs: int = official(int, 400, at_least=1)
    accum_iter: int = official(int, 1, "forward passes per optimizer step", at_least=1)
    model: str = official(str, "mae_vit_large_patch16", ", ".join(PRESETS), choices=tuple(PRESETS))
    input_size: int = official(int, 224, "image side in pixels", at_least=1)
    mask_ratio: float = official(float, 0.75, "share of patches removed", above=0, at_most=1)
    norm_pix_loss: bool = official(bool, False, "predict patches normalised by their own mean and variance")
    weight_decay: float = official(float, 0.05, at_least=0)
    lr: float | None = official(float, None, "absolute learning rate (default: from blr)", at_least=0)
    blr: float = official(float, 1e-3, "base learning rate: lr = blr * effective batch / 256", at_least=0)
    min_lr: float = official(float, 0.0, "learning rate that the schedule ends at, at most lr", at_least=0)
    warmup_epochs: float = official(float, 40, "epochs over which the learning rate rises from 0", at_least=0)
    data_path: str = official(str, "/datasets01/imagenet_full_size/061417/", "folder of images, or CIFAR files")
    output_dir: str = official(str, "./output_dir", "checkpoints and log.txt; empty to save nothing")
    log_dir: str = official(str, "./output_dir", "TensorBoard events; empty for none")
    device: str = official(str, "cuda", "cuda, cuda:N or cpu; plain cuda falls back to the CPU where there is no GPU")
    seed: int = official(int, 0, at_least=0, at_most=2**63 - 1)
    resume: str = official(str, "", "checkpoint to go on from, ours or official")
    start_epoch: int = official(int, 0, at_least=0)
    num_workers: int = official(int, 10, "loader threads (DALI) or processes (Pillow), at most one a CPU", at_least=0)
    pin_mem: bool = official(bool, True, "no effect: batches for a GPU are always pinned")
    world_size: int = official(int, 1, "processes, where Slurm started them", at_least=1)
    local_rank: int = official(int, -1, "no effect: the launcher tells", at_least=-1)
    dist_on_itp: bool = official(bool, False, "processes were started by Open MPI")
    dist_url: str = official(str, "env://", "where processes meet")

    dtype: str = ours(str, "auto", "auto: bf16 on CUDA, fp32 on CPU", choices=("auto", "fp32", "bf16", "fp16"))
    fp8: bool = ours(bool, False, "linear layers of a Large or Huge encoder in float8 (sm_89 or more)")
    compile: bool = ours(bool, False, "torch.compile the step")
    cuda_graphs: bool = ours(bool, False, "replay the compiled step from CUDA graphs; for small batches")
    activation_checkpointing: bool = ours(bool, False, "less memory for a third more arithmetic")
    clip_grad: float | None = ours(float, None, "largest gradient norm; 0 or none: not clipped", at_least=0)
    opt: str = ours(str, "adamw", choices=("adamw", "sgd"))
    sched: str = ours(str, "cosine", choices=("cosine", "step", "plateau"))
    decay_epochs: int = ours(int, 30, "epochs between drops of --sched step", at_least=1)
    decay_rate: float = ours(float, 0.1, "factor of a drop of --sched step or plateau", above=0, at_most=1)
    patience_epochs: int = ours(int, 10, "epochs without a better loss before --sched plateau drops", at_least=0)
    init_from: str = ours(str, "", "weights to start from: official .pth, Hugging Face directory or ours")
    auto_resume: bool = ours(bool, False, "go on from the newest checkpoint in output_dir, if any")
    save_every: int = ours(int, 20, "epochs between checkpoints", at_least=1)
    augment: str = ours(str, "light", "light is the paper's", choices=("light", "medium", "strong"))
    loader: str = ours(str, "auto", choices=("auto", "dali", "pillow"))
    on_bad_image: str = ours(
        str,
        "skip",
        "unreadable, 16-bit, CMYK or palette: skip and count, stop and name, or convert what can be",
        choices=("skip", "stop", "convert"),
    )


def positive(text: str) -> int:
    """The type of a command's flag that counts something."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


SETTINGS: dict[str, Setting] = {field.name: field.metadata["setting"] for field in dataclasses.fields(Pretrain)}


def check(values: dict[str, Any], prefix: str = "") -> None:
    """ValueError naming the first setting whose value cannot work, alone or beside another; prefix: before the name."""
    for name, setting in SETTINGS.items():
        try:
            setting.check(values[name])
        except ValueError as error:
            raise ValueError(f"{prefix}{name}: {error}") from None
    if values["lr"] is not None and values["min_lr"] > values["lr"]:
        raise ValueError(f"{prefix}min_lr: {values['min_lr']:g} is above {prefix}lr {values['lr']:g}; lower it")
    if values["start_epoch"] >= values["epochs"]:
        raise ValueError(
            f"{prefix}start_epoch: {values['start_epoch']} leaves nothing to train of {prefix}epochs {values['epochs']}"
        )
    if values["resume"] and values["init_from"]:
        raise ValueError(
            f"{prefix}resume and {prefix}init_from: give one; resume goes on with a run, init_from starts a new one"
        )
