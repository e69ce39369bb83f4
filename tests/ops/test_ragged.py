"""Parity of the C++ kernels at the edges: sizes that fill no vector, one row, no row, memory aligned to nothing.

Small, so that there are many. `make sanitize` is what they are for: there a byte too far ends the run.
"""

from itertools import product

import pytest
import torch

from mae_fast import ops
from mae_fast.parity.cases import Case

LAYOUTS = "uint8", "uint8 window", "float", "float window", "channels_last", "every other pixel"


def patches(C, p, layout, **more):
    return dict(B=2, C=C, p=p, grid=(2, 3), ratio=0.5, layout=layout, **more)


CASES = {
    "random_masking": [dict(B=2, L=L, ratio=0.5) for L in (1, 2, 3, 15, 16, 17, 31, 33, 63, 65, 127, 1023, 4097)],
    "gather_patches": [patches(C, p, x) for C, p, x in product((1, 3, 4), (1, 2, 3, 5, 7, 11, 17), LAYOUTS)],
    "unshuffle": [
        dict(B=2, L=5, D=D, ratio=ratio, strided=strided)
        for D, ratio, strided in product((1, 2, 3, 7, 8, 15, 17, 31, 33, 65, 130), (0, 0.5, 1), (False, True))
    ],
    "masked_mse": [
        patches(C, p, x, norm_pix=C * p > 1, all_rows=p % 2 == 0)
        for C, p, x in product((1, 3, 4), (1, 2, 3, 5, 7, 11), LAYOUTS)
    ],
    # Every third pair: oneDNN compiles its kernels anew for each shape.
    "attention": [
        dict(B=2, N=N, H=1 + D % 2, D=D, offset=N % 2)
        for N, D in [*product((1, 2, 3, 15, 17, 63, 66, 130), (1, 2, 3, 8, 17, 18, 33, 130))][::3]
    ],
    "bias_gelu": [dict(B=B, D=D, strided=B > 1) for B, D in product((1, 17), (1, 2, 7, 15, 17, 33, 66, 130))],
    "add_layer_norm": [
        dict(B=B, D=D, strided=B > 1, branch=branch, x="float32")
        for B, D, branch in product((1, 17), (7, 15, 17, 33, 66, 130), (False, True))
    ],
}


@pytest.mark.filterwarnings("ignore:.*deterministic", "ignore:Warning only once for all operators")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("op", CASES)
def test_ragged_cpu(op, dtype, poisoned, assert_parity):
    for shape in CASES[op]:
        assert_parity(Case(op, shape), dtype, "cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_images_cpu(dtype):
    pixels, ids = torch.zeros(0, 4, 6, 3, dtype=torch.uint8), torch.zeros(0, 6, dtype=torch.int64)
    assert ops.random_masking(torch.rand(0, 6, dtype=dtype), 3)[0].shape == (0, 6)
    assert ops.gather_patches(pixels, ids, 2, (0.5,) * 3, (0.5,) * 3, dtype).shape == (0, 6, 12)
    tokens, qkv = torch.rand(0, 4, 8, dtype=dtype, requires_grad=True), torch.rand(0, 5, 3, 2, 8, requires_grad=True)
    x = ops.unshuffle(tokens, torch.rand(1, 1, 8), torch.rand(1, 7, 8), ids)
    y = ops.attention(qkv.to(dtype))
    assert x.shape == (0, 7, 8) and y.shape == (0, 5, 16)
    (x.sum() + y.sum()).backward()
    assert tokens.grad.shape == tokens.shape and qkv.grad.shape == qkv.shape
