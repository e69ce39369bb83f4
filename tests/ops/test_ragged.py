"""Parity of the C++ kernels at the edges: sizes that fill no vector, one row, no row, memory aligned to nothing.

Small, so that there are many. `make sanitize` is what they are for: there a byte too far ends the run.
"""

import pytest
import torch

from mae_fast import ops
from mae_fast.parity.cases import MODULES, Case


@pytest.mark.filterwarnings("ignore:.*deterministic", "ignore:Warning only once for all operators")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("op", ops.OPS)
def test_ragged_cpu(op, dtype, poisoned, assert_parity):
    for shape in MODULES[op].EDGES:
        assert_parity(Case(op, shape), dtype, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_images_cpu(dtype):
    pixels, ids = torch.zeros(0, 4, 6, 3, dtype=torch.uint8), torch.zeros(0, 6, dtype=torch.int64)
    assert ops.random_masking(torch.rand(0, 6, dtype=dtype), 3)[0].shape == (0, 6)
    assert ops.gather_patches(pixels, ids, 2, (0.5,) * 3, (0.5,) * 3, dtype).shape == (0, 6, 12)
    tokens, qkv = torch.rand(0, 4, 8, dtype=dtype, requires_grad=True), torch.rand(0, 5, 3, 2, 8, requires_grad=True)
    x = ops.unshuffle(tokens, torch.rand(1, 1, 8), torch.rand(1, 7, 8), ids)
    bias = torch.rand(48, requires_grad=True)
    y = ops.attention(qkv.to(dtype), bias)
    assert x.shape == (0, 7, 8) and y.shape == (0, 5, 16)
    (x.sum() + y.sum()).backward()
    assert tokens.grad.shape == tokens.shape and qkv.grad.shape == qkv.shape and not bias.grad.any()
