"""What the ops make of bad input, of nothing, and of ids out of bounds."""

import pytest
import torch

from mae_fast import ops
from mae_fast.parity.cases import schema_args
from tests.ops.implementations import BUILT, WITH_IDS


@pytest.mark.skipif(not BUILT, reason="csrc/ is not built")
@pytest.mark.parametrize("wrong", [-1, 6])
@pytest.mark.parametrize("op", WITH_IDS)
def test_cpp_reads_and_writes_nothing_out_of_bounds(op, wrong):
    args = list(schema_args(op))
    where = next(i for i, x in enumerate(args) if isinstance(x, torch.Tensor) and x.dtype == torch.int64)
    args[where] = args[where].index_fill(1, torch.tensor(1), wrong)
    with pytest.raises(IndexError, match=rf"{op}: ids out of 0\.\.5"):
        getattr(torch.ops.mae_fast, op)(*args)


def test_no_images():
    noise, imgs = torch.rand(0, 6), torch.rand(0, 3, 4, 6, requires_grad=True)
    shuffle, restore, _ = ops.random_masking(noise, 2)
    patches = ops.gather_patches(imgs, shuffle[:, :2], 2, (0,) * 3, (1,) * 3, torch.float32)
    mask_token = torch.randn(12, requires_grad=True)
    out = ops.unshuffle(patches, mask_token, torch.randn(1, 7, 12), restore)
    assert out.shape == (0, 7, 12)
    grads = torch.autograd.grad(out.sum(), [imgs, mask_token])
    assert grads[0].shape == imgs.shape and grads[1].eq(0).all()


def test_nothing_kept_nothing_masked():
    shuffle, _, mask = ops.random_masking(torch.rand(2, 6), 0)
    assert mask.eq(1).all()
    imgs = torch.randn(2, 3, 4, 6, requires_grad=True)
    patches = ops.gather_patches(imgs, shuffle[:, :0], 2, (0,) * 3, (1,) * 3, torch.float32)
    patches.sum().backward()
    assert patches.shape == (2, 0, 12) and imgs.grad.eq(0).all()
    assert ops.random_masking(torch.rand(2, 6), 6)[2].eq(0).all()


def bad_inputs():
    imgs, pixels, ids = torch.randn(2, 3, 4, 6), torch.zeros(2, 4, 6, 3, dtype=torch.uint8), torch.zeros(2, 1).long()
    three, tokens = (0.5,) * 3, torch.randn(2, 2, 8)
    f32 = torch.float32
    yield "noise", ops.random_masking, (torch.rand(6), 2)
    yield "noise", ops.random_masking, (torch.ones(2, 6).long(), 2)
    yield "len_keep", ops.random_masking, (torch.rand(2, 6), 7)
    yield "imgs", ops.gather_patches, (imgs[0], ids, 2, three, three, f32)
    yield "imgs", ops.gather_patches, (imgs.int(), ids, 2, three, three, f32)
    yield "patch_size", ops.gather_patches, (imgs, ids, 4, three, three, f32)
    yield "mean, std", ops.gather_patches, (pixels, ids, 2, (0.5,), three, f32)
    yield "ids", ops.gather_patches, (imgs, ids.int(), 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs, ids[:1], 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs, ids.expand(2, 7), 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs.to("meta"), ids, 2, three, three, f32)
    yield "dtype", ops.gather_patches, (imgs, ids, 2, three, three, torch.int64)
    yield "ids_restore", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 7, 8), torch.zeros(2, 6))
    restore = torch.arange(6).expand(2, 6)
    yield "tokens", ops.unshuffle, (tokens[:1], torch.randn(8), torch.randn(1, 7, 8), restore)
    yield "tokens", ops.unshuffle, (torch.randn(2, 8, 8), torch.randn(8), torch.randn(1, 7, 8), restore)
    yield "mask_token", ops.unshuffle, (tokens, torch.randn(4), torch.randn(1, 7, 8), restore)
    yield "pos_embed", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 6, 8), restore)
    yield "pos_embed", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 7, 8, device="meta"), restore)
    yield "pred", ops.masked_mse, (torch.randn(2, 2, 12), imgs, ids, 2, three, three, True)
    yield "pred", ops.masked_mse, (torch.randn(2, 1, 13), imgs, ids, 2, three, three, True)
    norm = torch.randn(5), torch.randn(5), 1e-6, f32
    x = torch.randn(2, 5)
    yield "x, weight, bias", ops.add_layer_norm, (torch.randn(2, 4), None, None, *norm)
    yield "y", ops.add_layer_norm, (x, torch.randn(5), None, *norm)
    yield "y_bias", ops.add_layer_norm, (x, x, torch.randn(1), *norm)
    yield "y_bias", ops.add_layer_norm, (x, None, torch.randn(5), *norm)
    for scale in (torch.ones(3), torch.ones(2, 1), torch.ones(2, dtype=torch.float64)):
        yield "scale", ops.add_layer_norm, (x, x, None, *norm, scale)
    yield "scale", ops.add_layer_norm, (x, None, None, *norm, torch.ones(2))
    yield "x, bias", ops.bias_gelu, (torch.randn(2, 5), torch.randn(4))
    yield "x, bias", ops.bias_gelu, (torch.ones(2, 5).long(), torch.randn(5))
    yield "qkv", ops.attention, (torch.randn(2, 5, 2, 4, 8),)
    yield "qkv", ops.attention, (torch.ones(2, 5, 3, 4, 8).long(),)
    yield "qkv", ops.attention, (torch.randn(2, 0, 3, 4, 8),)
    yield "qkv", ops.attention, (torch.randn(2, 5, 3, 4, 0),)
    yield "bias", ops.attention, (torch.randn(2, 5, 3, 4, 8), torch.randn(95))
    yield "ids", ops.masked_mse, (torch.randn(2, 0, 12), imgs, ids[:, :0], 2, three, three, True)


@pytest.mark.parametrize("name, op, args", list(bad_inputs()), ids=lambda x: getattr(x, "__name__", None))
def test_bad_input_is_named(name, op, args):
    with pytest.raises(ValueError, match=f"^{name}: .*expected|^{name}: "):
        op(*args)


def test_debug_checks_the_ids(monkeypatch):
    imgs, *rest = torch.randn(2, 3, 4, 6), 2, (0,) * 3, (1,) * 3, torch.float32
    monkeypatch.setattr("mae_fast.ops.checks.debug", True)
    ops.gather_patches(imgs, torch.tensor([[0, 5], [3, 1]]), *rest)
    for ids in ([[0, 6], [3, 1]], [[0, -1], [3, 1]], [[0, 5], [1, 1]]):
        with pytest.raises(ValueError, match=r"ids: expected distinct numbers in 0\.\.5"):
            ops.gather_patches(imgs, torch.tensor(ids), *rest)


@pytest.mark.skipif(not BUILT, reason="needs the C++ kernels")
@pytest.mark.parametrize("value, p", [(0.7, 16), (-2.117, 16), (2.64, 32)])
def test_a_flat_patch_is_zero_when_normalised(value, p):
    """What rounding leaves of its mean is divided by 1e-3, the root of the least variance."""
    imgs, ids = torch.full((1, 3, p, p), value), torch.zeros(1, 1, dtype=torch.int64)
    loss = ops.masked_mse(torch.zeros(1, 1, 3 * p * p), imgs, ids, p, [0.5] * 3, [0.5] * 3, True)
    assert loss < 1e-12
