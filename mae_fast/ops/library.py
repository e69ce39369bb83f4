"""Hands each op's kernels to PyTorch's dispatcher, and says what is there."""

from collections.abc import Callable
from importlib import import_module

import torch

from mae_fast.ops.builds import loaded_build, warn_without_kernels

try:
    import triton  # noqa: F401

    HAS_TRITON = True
except ImportError:
    HAS_TRITON = False  # CUDA tensors take the reference, and backends() says so

REFERENCE: dict[str, Callable] = {}  # op -> its kernel in plain PyTorch
TRITON: dict[str, Callable] = {}  # op -> its launcher


def register(op: str, reference: Callable, triton: str | None = None) -> set[str]:
    """Kernels of a defined op: the reference, and from the file of that name in kernels/ the launcher called as the op.

    -> the types of device that have a kernel of their own, C++ or Triton.
    """
    REFERENCE[op] = reference
    torch.library.impl(f"mae_fast::{op}", "default", _warning(reference))
    if triton and HAS_TRITON:
        TRITON[op] = getattr(import_module(f"mae_fast_kernels.{triton}"), op)
        torch.library.impl(f"mae_fast::{op}", "CUDA", _on_device(TRITON[op]))
    return {device for device, kind in _kinds(op).items() if kind != "reference"}


def backends() -> dict[str, dict[str, str]]:
    """Which implementation each op runs on each device, asked of the dispatcher: {op: {"cpu": ..., "cuda": ...}}."""
    return {op: _kinds(op) for op in REFERENCE}


def kernels(device: str) -> str:
    """What runs the ops on a type of device, in a few words: "C++ (avx512_bf16)", and which ops lack a kernel."""
    kinds = {op: where.get(device, "reference") for op, where in backends().items()}
    lacking = [op for op, kind in kinds.items() if kind == "reference" and f"{op}_backward" in kinds]
    if all(kind == "reference" for kind in kinds.values()):
        return "none, plain PyTorch runs every op"
    name = f"C++ ({loaded_build()})" if device == "cpu" else "Triton"
    return name + (f"; plain PyTorch for {', '.join(lacking)}" if lacking else "")


def _kinds(op: str) -> dict[str, str]:
    kernels = {"cpu": ("CPU", "cpp"), "cuda": ("CUDA", "triton")}
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return {device: kind if has(f"mae_fast::{op}", key) else "reference" for device, (key, kind) in kernels.items()}


def _warning(reference: Callable) -> Callable:
    """The reference as a kernel, which a CPU tensor meets only where no C++ kernel is built."""

    def kernel(x, *args):
        warn_without_kernels(x)
        return reference(x, *args)

    return kernel


def _on_device(launcher: Callable) -> Callable:
    """Triton launches on the current device, PyTorch promises the device of the tensors."""

    def launch(*args):
        with torch.cuda.device(next(x.device for x in args if isinstance(x, torch.Tensor))):  # the first may be None
            return launcher(*args)

    return launch
