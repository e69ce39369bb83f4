"""Which build of the C++ kernels this machine runs: csrc/ is compiled once for each instruction set."""

import sys
import warnings
from importlib import import_module

import torch
from torch import Tensor

BUILDS = ["_C_avx512_bf16", "_C_avx512", "_C_avx2", "_C"]  # best first


def best_build() -> str:
    """By the instruction set PyTorch chose for itself; ATEN_CPU_CAPABILITY=avx2 or default asks for an older one."""
    best = {"AVX512": "_C_avx512", "AVX2": "_C_avx2"}.get(torch.backends.cpu.get_cpu_capability(), "_C")
    bf16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "_C_avx512_bf16" if best == "_C_avx512" and bf16() else best


def loaded_build() -> str:
    """The instruction set of the C++ kernels that are loaded, such as avx512_bf16; empty where none are."""
    names = [name for name in BUILDS if f"mae_fast.{name}" in sys.modules]
    return (names[0].removeprefix("_C_") if names[0] != "_C" else "baseline") if names else ""


_missing = ""  # why no build is loaded; emptied once that is said


def load_cpu_kernels() -> None:
    """Register the C++ kernels of the best build there is for this machine with the dispatcher."""
    global _missing
    for name in BUILDS[BUILDS.index(best_build()) :]:
        try:
            import_module(f"mae_fast.{name}")
            return
        except ImportError as error:
            _missing = str(error)


def warn_without_kernels(x: Tensor | None) -> None:
    """Warn, once a process, when a CPU tensor meets an op whose C++ kernels are not built; a GPU needs none of them."""
    global _missing
    if _missing and x is not None and x.device.type == "cpu":
        warnings.warn(
            f"mae_fast's C++ kernels are not built ({_missing}); CPU tensors take the slower PyTorch reference. "
            "To build them: pip install --no-build-isolation -e . (needs a C++20 compiler)",
            stacklevel=3,
        )
        _missing = ""
