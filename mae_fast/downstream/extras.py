"""Packages that only some uses need."""

from importlib import import_module
from types import ModuleType

EXTRAS = {"sklearn": ("scikit-learn", "probe"), "pyarrow": ("pyarrow", "parquet")}  # package, extra of this one


def need(module: str, what: str) -> ModuleType:
    """The module of that name, of one of EXTRAS; ImportError saying what needs it and how to install it."""
    try:
        return import_module(module)
    except ImportError:
        package, extra = EXTRAS[module.split(".")[0]]
        raise ImportError(f"{what}: needs {package}, which is not installed; pip install {package}, or "
                          f"mae_fast[{extra}]") from None  # fmt: skip
