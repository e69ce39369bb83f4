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

Draw = tuple[Tensor, Tensor, Tensor]  # a result: ours, plain PyTorch's, float64
MOST = 16  # draws of a case
FEW, MANY = 2**12, 2**24  # numbers that are always drawn, and that are kept at most


def check(case: Case, dtype: torch.dtype, device: str = "cpu", function: Callable | None = None) -> list[Row]:
    """A row for each output and gradient of an op on fresh inputs. function: what is checked in place of our op.

    The largest error of one draw is luck, plain PyTorch's as well as ours: where few numbers are drawn at a time, or
    a row breaks the rule, up to 16 draws are judged together. None is left out: what broke the rule still counts.
    """
    draw = partial(_draw, case, dtype, device, function or getattr(ops, case.op))
    draws = [draw()]
    size = max(1, sum(exact.numel() for _, _, exact in draws[0].values()))
    draws += [draw() for _ in range(min(MOST, FEW // size) - 1)]
    rows = _judge(case, dtype, draws)
    if not all(row.holds for row in rows):
        draws += [draw() for _ in range(min(MOST, MANY // size) - len(draws))]
        rows = _judge(case, dtype, draws)
    return rows


def _judge(case: Case, dtype: torch.dtype, draws: list[dict[str, Draw]]) -> list[Row]:
    """A row for each result, of all draws together."""
    return [
        Row(str(case), dtype_name(dtype), result, *_errors(case.op, [draw[result] for draw in draws]))
        for result in draws[0]
    ]


def _draw(case: Case, dtype: torch.dtype, device: str, function: Callable) -> dict[str, Draw]:
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


def _errors(op: str, draws: list[Draw]) -> tuple[float, float, float, str]:
    """-> (ours, plain PyTorch's, allowed, note)."""
    fast, plain, _ = draws[0]
    if (fast.dtype, fast.shape) != (plain.dtype, plain.shape):
        wrong = f"{fast.dtype} {tuple(fast.shape)}, expected {plain.dtype} {tuple(plain.shape)}"
        return float("inf"), 0.0, 0.0, wrong
    fast, plain, exact = (torch.cat([x.flatten() for x in results]) for results in zip(*draws, strict=True))
    if not exact.numel():
        return 0.0, 0.0, 0.0, ""
    if getattr(MODULES[op], "EXACT", False):
        return float((fast != plain).any()), 0.0, 0.0, ""
    exact = exact.double()
    size = exact.abs().max() or 1.0
    ours, theirs = (float((x.double() - exact).abs().max() / size) for x in (fast, plain))
    return ours, theirs, 2 * theirs + FLOOR[fast.dtype], ""
