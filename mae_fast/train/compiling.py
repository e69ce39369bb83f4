"""Whether torch.compile works on this machine and pays, and what is said where it does not."""

import logging
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import nn

from mae_fast.model import MaskedAutoencoderViT, stages
from mae_fast.train import distributed

logger = logging.getLogger(__name__)

# Two cores take 0.33 TFLOP/s in a bf16 step (README: 8.3 images/s of Small, 5.6 of Base).
CPU_RATE = 0.165e12  # FLOPs of matrix products a second and thread
CPU_LEAST = 2 * 3600  # seconds of a run; compiling takes one or two minutes of it and saves 2 % of a step


class CompileError(RuntimeError):
    """A loss that must be compiled cannot be."""


def decide(compile: bool | None, pays: bool, device: torch.device) -> bool:
    """Whether to compile for a device. None: if it pays and can be done; a warning where it cannot.

    ValueError where it must be and cannot.
    """
    if not (pays if compile is None else compile):
        return False
    why = next(filter(None, distributed.gather(obstacle(device))), "")
    if why and compile:
        raise ValueError(f"compile: {why}")
    if why:
        warn("compile", f"{why}; training goes on uncompiled")
    return not why


def attempt(passes: Callable[[], object], must: bool) -> str:
    """Run compiled passes for the first time. -> why that failed, on whichever rank; empty where it did not.

    CompileError where it must not fail. No error is kept: its frames hold the activations.
    """
    here = ""
    try:
        passes()
    except Exception as error:  # Dynamo, Inductor, Triton and the compilers behind them raise classes of their own
        here = in_a_line(error)
        if must:
            distributed.gather(here)  # or the others would wait for this rank
            raise CompileError(f"compile: the loss does not compile ({here})") from error
    why = next(filter(None, distributed.gather(here)), "")
    if why and must:
        raise CompileError(f"compile: the loss does not compile on another rank ({why})")
    return why


def in_a_line(error: BaseException) -> str:
    """The type of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def warn(setting: str, text: str) -> None:
    """Log once for all ranks that a setting which nobody asked for does not work."""
    if distributed.rank() == 0:
        logger.warning("Warning: %s: %s. %s=False does not try", setting, text, setting)


def obstacle(device: torch.device) -> str:
    """What keeps torch.compile from working for a device on this machine, and the remedy; empty where nothing does."""
    if device.type == "cuda":
        if find_spec("triton") is None:
            return "Triton is not installed; pip install triton"
        if torch.cuda.get_device_capability(device) < (7, 0):
            return f"Triton needs a GPU of compute capability 7.0, and {torch.cuda.get_device_name(device)} is older"
        if not any(map(_found, (os.environ.get("CC"), "gcc", "clang"))):
            return "Triton finds no C compiler for its launchers; install gcc, or name one in the environment's CC"
    elif not _found(os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")):
        return "there is no C++ compiler; install g++, or name one in the environment's CXX"
    return ""


def _found(command: str | None) -> bool:
    return bool(command) and shutil.which(command.split()[0]) is not None


def pays_on_cpu(loss: nn.Module, images: int | None) -> bool:
    """Whether a run of so many images on this process gets back the time that compiling takes. No, if not known."""
    model = getattr(loss, "model", None)
    if images is None or not isinstance(model, MaskedAutoencoderViT):
        return False
    return (
        loss.masks * images * product_flops(model, loss.mask_ratio) / (CPU_RATE * torch.get_num_threads()) > CPU_LEAST
    )


def product_flops(model: MaskedAutoencoderViT, mask_ratio: float) -> int:
    """FLOPs an image of a step's linear layers: 2 a weight and row forward, and twice that backward."""
    step = stages.of_model(model, mask_ratio)
    D, d = step.encoder.width, step.decoder.width
    products = step.visible * D * (step.P + d) + step.masked * d * step.P
    for block in step.blocks:
        qkv, rest = 3 * block.width, block.width + 2 * block.hidden
        products += block.layers * block.width * (block.tokens * qkv + block.rows * rest)
    return 6 * products
