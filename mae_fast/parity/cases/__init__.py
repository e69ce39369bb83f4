"""The table of op cases: a file an op, which tests, `mae-fast parity`, benchmarks and ahead-of-time builds read.

A file says all that they need to know of its op:

    ROWS, EDGES, SMALL              shapes: of every check; of the CPU kernels' edges, small and many; for opcheck
    make(shape, dtype, device)      fresh random Inputs
    schemas(args)                   {op: arguments as its schema takes them}, of the op and of its backward
    least_bytes(shape, c, stream)   forward and backward, at c bytes a number of the compute type
    calls(step, batch)              the op's calls in a training step
    launches()                      (name, op, arguments on meta) of its Triton kernels, for the shipped models
    EXACT = True                    where results have to be equal

The last two may be missing.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from types import ModuleType
from typing import NamedTuple

import torch

from mae_fast.config import Preset
from mae_fast.model import stages
from mae_fast.model.precision import stream_dtype
from mae_fast.ops import OPS
from mae_fast.parity.cases.inputs import Inputs

MODULES: dict[str, ModuleType] = {op: import_module(f"{__name__}.{op}") for op in OPS}


class Case(NamedTuple):
    op: str
    shape: dict

    def __str__(self):
        return self.op + "-" + "-".join(f"{k}={v}" for k, v in self.shape.items())


# Odd batches; channels 1, 3, 4; patches that fill no block; grids 1 x 1 to 32 x 32 and 9 x 7; nothing, half, three
# quarters and nearly all masked; tensors with strides. The largest run few rows: the interpreter takes 5 ms a program.
CASES = [Case(op, shape) for op, module in MODULES.items() for shape in module.ROWS]


def make(case: Case, dtype: torch.dtype, device: str = "cpu") -> Inputs:
    """Fresh random inputs of a case, in a compute type."""
    return MODULES[case.op].make(case.shape, dtype, device)


def run(function: Callable, args: tuple, grads: tuple, upstream: tuple = ()) -> list:
    """-> outputs of an op, as a list, followed by the gradients of the arguments `grads`.

    upstream: a gradient for each output.
    """
    leaves = {i: args[i].detach().requires_grad_() for i in grads}
    out = function(*(leaves.get(i, x) for i, x in enumerate(args)))
    out = out if isinstance(out, tuple) else (out,)
    if not grads:
        return list(out)
    upstream = [grad.to(x.dtype) for grad, x in zip(upstream, out, strict=True)]
    return [*(x.detach() for x in out), *torch.autograd.grad(out, list(leaves.values()), upstream)]


def schema_args(op: str) -> tuple:
    """Small arguments of an op or a backward, as its schema takes them, with gradients where there are any."""
    module = MODULES[op.removesuffix("_backward")]
    args, grads, _ = module.make(module.SMALL, torch.float32, "cpu")
    args = tuple(x.detach().requires_grad_() if i in grads else x for i, x in enumerate(args))
    return tuple(module.schemas(args)[op])


def least_bytes(case: Case, direction: str, dtype: torch.dtype, device: str = "cpu") -> int:
    """What one call, "forward" or "backward", must move: all that it needs read once, all its results written once."""
    stream = stream_dtype(None, torch.float32, dtype, torch.device(device)).itemsize
    forward, backward = MODULES[case.op].least_bytes(case.shape, dtype.itemsize, stream)
    return forward if direction == "forward" else backward


def calls(step: stages.Stages, batch: int) -> Iterator[tuple[str, str, dict, int]]:
    """(op, where in the model, shape, times) of every call in the forward pass of a training step."""
    for op, module in MODULES.items():
        for call in module.calls(step, batch):
            yield op, *call


def preset_cases(preset: Preset, batch: int, img_size: int = 224, mask_ratio: float = 0.75) -> dict[str, Case]:
    """One call of each op in a training step of a preset, in encoder and decoder: {"op, where": case}."""
    step = stages.of_preset(preset, img_size, mask_ratio)
    wanted = ("", "encoder", "decoder")
    return {
        f"{op}, {where}" if where else op: Case(op, shape)
        for op, where, shape, _ in calls(step, batch)
        if where in wanted
    }
