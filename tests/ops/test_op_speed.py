"""Each op at a small size under pytest-benchmark; with --benchmark-autosave it keeps a history."""

import pytest
import torch

from benchmarks.parts.ops import prepare
from mae_fast import ops
from mae_fast.config import TINY
from mae_fast.parity.cases import make, preset_cases

CASES = preset_cases(TINY, 4, img_size=32)


WITHOUT_GRADIENT = "random_masking", "gather_patches"  # of uint8 images


@pytest.mark.parametrize(
    "name, direction",
    [(name, way) for name in CASES for way in ("forward", "backward")[: 1 if name in WITHOUT_GRADIENT else 2]],
)
def test_op_speed(benchmark, name, direction):
    case = CASES[name]
    args, grads, _ = make(case, torch.bfloat16)
    results = []

    def fresh():
        return (prepare(getattr(ops, case.op), grads, direction, *args),), {}

    benchmark.pedantic(lambda call: results.append(call()), setup=fresh, rounds=5)
    for x in results[-1] if isinstance(results[-1], tuple) else (results[-1],):
        assert not x.is_floating_point() or x.isfinite().all()
