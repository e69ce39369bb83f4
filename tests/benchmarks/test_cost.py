import pytest

from benchmarks.counting.cost import bytes_moved, seconds
from mae_fast import ops


def test_bytes_are_those_of_the_tensors():
    """gather_patches of 256 uint8 images of 224 pixels, a quarter kept, to bfloat16: 9.6 MB in, 19.3 MB out."""
    pixels = 256 * 49 * 16 * 16 * 3
    assert bytes_moved("gather_patches", 256) == pixels + 2 * pixels + 256 * 49 * 8
    assert bytes_moved("gather_patches", 256, image=4) - bytes_moved("gather_patches", 256) == 3 * pixels
    assert seconds("gather_patches", 256) == pytest.approx(6.75e-6, rel=0.01)


@pytest.mark.parametrize("op", ops.REFERENCE)
def test_every_op_has_a_cost_that_grows_with_the_batch(op):
    assert 0 < seconds(op, 1) < seconds(op, 64) <= 64 * seconds(op, 1)
