"""Without a GPU the Triton kernels run on CPU tensors, in the interpreter: chosen here, before triton is imported."""

import contextlib
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from mae_fast import ops
from mae_fast.parity.op import check
from mae_fast.parity.rule import poisoned_memory


def arithmetic_of_a_gpu():
    """The interpreter cuts float32 off to bfloat16, where a GPU rounds to the nearest, and multiplies bit patterns.

    Its products are numpy's, whose BLAS adds up in another order on every processor (and as OPENBLAS_CORETYPE says):
    there the scores of attention may be twice as far off as those of plain PyTorch, for no fault of the kernel. Here
    each product is rounded once, from float64.
    """
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cut_off = InterpreterBuilder.cast_impl

    def cast(self, x, to):
        if x.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            rounded = torch.tensor(x.data).bfloat16().view(torch.int16).numpy().view("uint16")
            return TensorHandle(rounded, to.scalar)
        return cut_off(self, x, to)

    def dot(self, a, b, d, *rest):
        a, b = (cast(self, x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b))
        product = a.data.astype("float64") @ b.data.astype("float64")
        return TensorHandle(product.astype(d.data.dtype) + d.data, d.dtype.scalar)

    InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot = cast, dot


if os.environ.get("TRITON_INTERPRET") == "1":
    arithmetic_of_a_gpu()


@pytest.fixture
def poisoned():
    with poisoned_memory():
        assert torch.empty(4).isnan().all()
        yield


@contextlib.contextmanager
def _implementation(name):
    """Who answers mae_fast.ops on CPU tensors: "cpu" (C++ where it is built), "reference", or "triton", interpreted."""
    kernels = {"cpu": {}, "reference": ops.REFERENCE, "triton": ops.TRITON}[name]
    library = torch.library.Library("mae_fast", "IMPL")
    try:
        for op, kernel in kernels.items():
            library.impl(op, kernel, "CPU")
        yield
    finally:
        library._destroy()


@pytest.fixture
def implementation():
    return _implementation


@pytest.fixture
def assert_parity():
    """Hold a case, a type and an implementation ("cuda" besides) to the parity rule."""

    def hold(case, dtype, name):
        with _implementation("cpu" if name == "cuda" else name):
            rows = check(case, dtype, "cuda" if name == "cuda" else "cpu")
        assert all(row.holds for row in rows), [row for row in rows if not row.holds]

    return hold


@pytest.fixture
def wrong_kernel():
    """A context in which the CPU kernel of an op is off by 5 %, as a bug in csrc/ would have it."""

    @contextlib.contextmanager
    def spoil(op):
        def wrong(*args):
            out = ops.REFERENCE[op](*args)
            first, *rest = out if isinstance(out, tuple) else (out,)
            return (first * 1.05, *rest) if rest else first * 1.05

        library = torch.library.Library("mae_fast", "IMPL")
        library.impl(op, wrong, "CPU")
        try:
            yield
        finally:
            library._destroy()

    return spoil
