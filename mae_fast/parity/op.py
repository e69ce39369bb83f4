"""The parity rule for one op: outputs and every gradient, fresh random inputs, random upstream gradients."""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from mae_fast import ops, reference
from mae_fast.config import dtype_name
from mae_fast.parity.cases import MODULES, Case, make, run
from mae_fast.parity.rule import FLOOR, Row


def check(case: Case, dtype: torch.dtype, device: str = "cpu", function: Callable | None = None) -> list[Row]:
    """A row for each output and gradient of an op on fresh inputs. function: what is checked in place of our op.

    The largest error of few numbers is luck, theirs as well as ours: small results are drawn several times and judged
    by all draws together.
    """
    draw = partial(_draw, case, dtype, device, function or getattr(ops, case.op))
    triples = draw()
    size = sum(exact.numel() for _, _, exact in triples.values())
    for _ in range(min(15, 4096 // max(1, size))):
        fresh = draw()
        triples = {name: tuple(map(_beside, triple, fresh[name])) for name, triple in triples.items()}
    name = dtype_name(dtype)
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
    upstream = [_upstream(x) * scale for x in exact] if grads else ()
    fast, plain, exact = (run(f, a, grads, upstream) for f, a in ((function, args), (naive, args), (naive, exact_args)))
    names = list(inspect.signature(naive).parameters)
    outputs = [f"output {i}" for i in range(len(exact) - len(grads))]
    return dict(
        zip([*outputs, *(f"gradient of {names[i]}" for i in grads)], zip(fast, plain, exact, strict=True), strict=True)
    )


def _upstream(x: Tensor) -> Tensor:
    """A random gradient of x. A loss's is near 1: of draws that differ in scale only the largest would count."""
    return torch.randn_like(x, dtype=torch.float32) if x.dim() else 1 + torch.rand_like(x, dtype=torch.float32) / 4


def _errors(op: str, fast: Tensor, plain: Tensor, exact: Tensor) -> tuple[float, float, float, str]:
    """-> (ours, plain PyTorch's, allowed, note)."""
    if (fast.dtype, fast.shape) != (plain.dtype, plain.shape):
        wrong = f"{fast.dtype} {tuple(fast.shape)}, expected {plain.dtype} {tuple(plain.shape)}"
        return float("inf"), 0.0, 0.0, wrong
    if not exact.numel():
        return 0.0, 0.0, 0.0, ""
    if getattr(MODULES[op], "EXACT", False):
        return float((fast != plain).any()), 0.0, 0.0, ""
    exact = exact.double()
    size = exact.abs().max() or 1.0
    ours, theirs = (float((x.double() - exact).abs().max() / size) for x in (fast, plain))
    return ours, theirs, 2 * theirs + FLOOR[fast.dtype], ""


def _beside(a: Tensor, b: Tensor) -> Tensor:
    return torch.cat([a.flatten(), b.flatten()])
