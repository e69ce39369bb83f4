"""Who answers `mae_fast.ops` on CPU tensors, while a test lasts."""

import contextlib

import torch

from mae_fast import ops


@contextlib.contextmanager
def implementation(name: str):
    """ "cpu" (C++ where there is any), "reference", or "triton", interpreted."""
    kernels = {"cpu": {}, "reference": ops.REFERENCE, "triton": ops.TRITON}[name]
    library = torch.library.Library("mae_fast", "IMPL")
    try:
        for op, kernel in kernels.items():
            library.impl(op, kernel, "CPU")
        yield
    finally:
        library._destroy()
