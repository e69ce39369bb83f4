"""The parity rule: err(ours, float64) <= 2 err(plain PyTorch, float64) + a floor for each type."""

import contextlib
import warnings
from dataclasses import asdict, dataclass

import torch

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
        """The ratio of our error to plain PyTorch's; None where theirs is zero."""
        return self.error / self.plain if self.plain else None

    @property
    def of_allowed(self) -> float:
        """The error as a share of what is allowed; above 1 the rule is broken."""
        return self.error / self.allowed if self.allowed else self.error

    def as_dict(self) -> dict:
        return asdict(self) | {"ratio": self.ratio, "verdict": "holds" if self.holds else "FAILS"}


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
