"""The parity rule for one op: outputs and every gradient, fresh random inputs, random upstream gradients."""

import contextlib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

import torch
from torch import Tensor

from mae_fast import ops, reference
from mae_fast.parity.cases import Case, make, run

# Where plain PyTorch happens to be exact: a rounding of the result's type (float32: a few, for sums in another order).
FLOOR = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}


@dataclass(frozen=True)
class Row:
    """One number that was held to float64. Errors are shares of the largest number of the float64 result."""

    what: str  # op or model, and its case
    dtype: str
    result: str  # output, or gradient of an argument or a parameter
    error: float  # ours
    plain: float  # of plain PyTorch at the same dtype
    allowed: float
    note: str = ""

    @property
    def holds(self) -> bool:
        return self.error <= self.allowed  # never of NaN

    @property
    def ratio(self) -> float | None:
        """Ours to plain PyTorch's; None where theirs is exact."""
        return self.error / self.plain if self.plain else None

    @property
    def of_allowed(self) -> float:
        """The rule is broken above 1."""
        return self.error / self.allowed if self.allowed else self.error

    def as_dict(self) -> dict:
        return asdict(self) | {"ratio": self.ratio, "verdict": "holds" if self.holds else "FAILS"}


def check(case: Case, dtype: torch.dtype, device: str = "cpu", function: Callable | None = None) -> list[Row]:
    """A row for each output and gradient of an op on fresh inputs. function: what is checked in place of our op.

    The largest error of few numbers is luck, theirs as well as ours: small results are drawn several times and judged
    by all draws together. random_masking has to be equal.
    """
    draw = partial(_draw, case, dtype, device, function or getattr(ops, case.op))
    triples = draw()
    size = sum(exact.numel() for _, _, exact in triples.values())
    for _ in range(min(15, 4096 // max(1, size))):
        fresh = draw()
        triples = {name: tuple(map(_beside, triple, fresh[name])) for name, triple in triples.items()}
    name = str(dtype).removeprefix("torch.")
    return [Row(str(case), name, result, *_errors(case.op, *triple)) for result, triple in triples.items()]


def _draw(case: Case, dtype: torch.dtype, device: str, function: Callable) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """{result: (function's, plain PyTorch's, float64)} of fresh inputs."""
    args, grads, exact_args = make(case, dtype, device)
    naive = getattr(reference, case.op)
    with torch.no_grad():
        exact = naive(*exact_args)
    exact = exact if isinstance(exact, tuple) else (exact,)
    # As large as a GradScaler makes it where the case says so.
    scale = case.shape.get("loss_scale", 1)
    upstream = [torch.randn_like(x, dtype=torch.float32) * scale for x in exact] if grads else ()
    fast, plain, exact = (run(f, a, grads, upstream) for f, a in ((function, args), (naive, args), (naive, exact_args)))
    names = list(inspect.signature(naive).parameters)
    outputs = [f"output {i}" for i in range(len(exact) - len(grads))]
    return dict(
        zip([*outputs, *(f"gradient of {names[i]}" for i in grads)], zip(fast, plain, exact, strict=True), strict=True)
    )


def _errors(op: str, fast: Tensor, plain: Tensor, exact: Tensor) -> tuple[float, float, float, str]:
    """-> (ours, plain PyTorch's, allowed, note)."""
    if (fast.dtype, fast.shape) != (plain.dtype, plain.shape):
        wrong = f"{fast.dtype} {tuple(fast.shape)}, expected {plain.dtype} {tuple(plain.shape)}"
        return float("inf"), 0.0, 0.0, wrong
    if not exact.numel():
        return 0.0, 0.0, 0.0, ""
    if op == "random_masking":
        return float((fast != plain).any()), 0.0, 0.0, ""
    exact = exact.double()
    size = exact.abs().max() or 1.0
    ours, theirs = (float((x.double() - exact).abs().max() / size) for x in (fast, plain))
    return ours, theirs, 2 * theirs + FLOOR[fast.dtype], ""


def _beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a.flatten(), b.flatten()])


@contextlib.contextmanager
def poisoned_memory():
    """New memory is full of NaN (integers: the largest), so that an output which is not written is seen."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic")  # of operators that are not: no matter here
            yield
    finally:
        torch.use_deterministic_algorithms(False)
