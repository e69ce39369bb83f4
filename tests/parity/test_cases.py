"""What the cases say of their ops beside what the ops do."""

import pytest
import torch

from mae_fast import ops
from mae_fast.config import BASE
from mae_fast.parity.cases import MODULES, Case, least_bytes, preset_cases


def test_bytes_are_those_of_the_tensors():
    """gather_patches of 256 uint8 images of 224 pixels, a quarter kept, to bfloat16: 9.6 MB in, 19.3 MB out."""
    case = preset_cases(BASE, 256)["gather_patches"]
    wide = Case("gather_patches", case.shape | {"layout": "float"})
    pixels = 256 * 49 * 16 * 16 * 3
    assert least_bytes(case, "forward", torch.bfloat16) == pixels + 2 * pixels + 256 * 49 * 8
    assert least_bytes(wide, "forward", torch.bfloat16) - least_bytes(case, "forward", torch.bfloat16) == pixels


@pytest.mark.parametrize("op", ops.OPS)
def test_every_op_has_a_cost_that_grows_with_the_batch(op):
    for shape in MODULES[op].ROWS:
        one, many = (sum(MODULES[op].least_bytes(shape | {"B": B}, c=2)) for B in (1, 64))
        assert 0 < one < many <= 64 * one
