"""The fused ops, one file and one schema each: the only package that touches torch.library.

The dispatcher chooses: Triton (kernels/) for CUDA tensors, C++ (csrc/) for CPU tensors where it was built, the
reference for everything else. Each op has its reference as default kernel, a fake implementation for torch.compile
and a backward that is an op too. The functions here check their arguments; a ValueError names the bad one.

Shapes: B images, C channels, L patches, K kept or masked patches, P = p*p*C numbers of a patch, N tokens, D width,
H heads of width Dh.
"""

from mae_fast.ops.builds import load_cpu_kernels

load_cpu_kernels()  # first: an op asks at import which devices have a kernel for it

from mae_fast.ops.add_layer_norm import add_layer_norm  # noqa: E402
from mae_fast.ops.attention import attention  # noqa: E402
from mae_fast.ops.bias_gelu import bias_gelu  # noqa: E402
from mae_fast.ops.checks import image_shape  # noqa: E402
from mae_fast.ops.gather_patches import gather_patches  # noqa: E402
from mae_fast.ops.library import REFERENCE, TRITON, backends, kernels  # noqa: E402
from mae_fast.ops.masked_mse import masked_mse  # noqa: E402
from mae_fast.ops.random_masking import random_masking  # noqa: E402
from mae_fast.ops.unshuffle import unshuffle  # noqa: E402

__all__ = [
    "REFERENCE",
    "TRITON",
    "add_layer_norm",
    "attention",
    "backends",
    "bias_gelu",
    "gather_patches",
    "image_shape",
    "kernels",
    "masked_mse",
    "random_masking",
    "unshuffle",
]
