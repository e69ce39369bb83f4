"""The fused ops, a file and a schema each, found by the name of the file: all that touches torch.library.

The dispatcher chooses: Triton (kernels/) for CUDA tensors, C++ (csrc/) for CPU tensors where it was built, the
reference for everything else. Each op has its reference as default kernel, a fake implementation for torch.compile
and a backward that is an op too. The functions here check their arguments; a ValueError names the bad one.

Shapes: B images, C channels, L patches, K kept or masked patches, P = p*p*C numbers of a patch, N tokens, D width,
H heads of width Dh.
"""

from importlib import import_module
from pkgutil import iter_modules

from mae_fast.ops.builds import load_cpu_kernels

load_cpu_kernels()  # first: an op asks at import which devices have a kernel for it

from mae_fast.ops.checks import image_shape  # noqa: E402
from mae_fast.ops.library import REFERENCE, TRITON, backends, kernels  # noqa: E402

OPS = [module.name for module in iter_modules(__path__) if module.name not in ("builds", "checks", "library")]
globals().update({op: getattr(import_module(f"{__name__}.{op}"), op) for op in OPS})

__all__ = ["OPS", "REFERENCE", "TRITON", "backends", "image_shape", "kernels", *OPS]
