"""What the Triton kernels promise beyond parity: bad ids and noise, 64-bit offsets, strides of gradients, float64."""

import contextlib

import pytest
import torch

from mae_fast import ops, reference

pytest.importorskip("triton")
from mae_fast_kernels import add_layer_norm, attention, bias_gelu, gather_patches, masked_mse, random_masking, unshuffle

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the CPU is Triton's interpreter: tests/conftest.py
MEAN, STD = reference.IMAGENET_MEAN, reference.IMAGENET_STD
BAD = torch.tensor([[0, 6, 2], [-1, 5, 2**40]], device=DEVICE)  # ids of six patches
OK = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.bool, device=DEVICE)


def test_ids_out_of_range_give_nan_and_write_nothing():
    imgs = torch.randn(2, 3, 4, 6, device=DEVICE)
    out = gather_patches.gather_patches(imgs, BAD, 2, MEAN, STD, torch.float32)
    assert torch.equal(out.isnan().all(2), ~OK) and torch.equal(out.isnan().any(2), ~OK)

    ones = torch.ones(2, 3, 12, device=DEVICE)
    grad = gather_patches.gather_patches_backward(ones, BAD, 2, imgs.shape, torch.float32)
    assert grad.sum() == OK.sum() * 12

    loss, residual = masked_mse.masked_mse(ones, imgs, BAD, 2, MEAN, STD, True, True)
    assert loss.isnan() and torch.equal(residual.isnan().all(2), ~OK)
    pred = torch.ones(2, 6, 12, device=DEVICE)
    assert masked_mse.masked_mse(pred, imgs, BAD, 2, MEAN, STD, True, True)[0].isnan()
    grad = masked_mse.masked_mse_backward(ones, BAD, loss.new_ones(()), 6)
    assert torch.equal(grad.any(2).sum(1), OK.sum(1))

    tokens, restore = torch.ones(2, 3, 8, device=DEVICE), torch.tensor([[1, 3, 0], [0, -1, 2]], device=DEVICE)
    out = unshuffle.unshuffle(tokens, tokens[0, 0], torch.ones(1, 4, 8, device=DEVICE), restore)
    assert torch.equal(out.isnan().any(2), torch.tensor([[0, 0, 1, 0], [0, 0, 1, 0]], device=DEVICE).bool())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_any_noise_gives_a_permutation(bad):
    noise = torch.rand(3, 150, device=DEVICE)
    noise[0, ::3] = noise[1] = bad
    shuffle, restore, mask = random_masking.random_masking(noise, 40)
    expected = reference.random_masking(noise, 40)
    for a, b in zip((shuffle, restore, mask), expected, strict=True):
        assert torch.equal(a, b)


def test_the_longest_sequence(monkeypatch):
    if DEVICE == "cpu":  # larger blocks: the interpreter takes the same time for each
        monkeypatch.setattr(random_masking, "FORWARD", random_masking.FORWARD | {"BLOCK_I": 512, "BLOCK_J": 256})
    noise = torch.rand(1, 4096, device=DEVICE).mul(500).floor()  # with ties
    for a, b in zip(random_masking.random_masking(noise, 1024), reference.random_masking(noise, 1024), strict=True):
        assert torch.equal(a, b)


def far_apart(size, strides, dtype):
    """A tensor with strides beyond 2**31 numbers: memory that is reserved and, but for a few pages, never touched."""
    reach = 1 + sum((n - 1) * s for n, s in zip(size, strides, strict=True))
    try:
        return torch.empty(reach, dtype=dtype, device=DEVICE).as_strided(size, strides)
    except RuntimeError:
        pytest.skip("no address space for a tensor this long")


@pytest.mark.parametrize("stride_b, stride_c", [(2**31 + 64, 16), (64, 2**31 + 16), (2**31 - 32, 2**30 + 16)])
def test_images_beyond_32_bits(stride_b, stride_c):
    imgs = far_apart((2, 3, 4, 4), (stride_b, stride_c, 4, 1), torch.bfloat16)
    imgs.copy_(torch.randn(2, 3, 4, 4))
    ids = torch.tensor([[3, 0], [1, 2]], device=DEVICE)
    expected = reference.gather_patches(imgs.clone(), ids, 2, MEAN, STD, torch.bfloat16)
    assert torch.equal(gather_patches.gather_patches(imgs, ids, 2, MEAN, STD, torch.bfloat16), expected)
    loss, _ = masked_mse.masked_mse(expected, imgs, ids, 2, MEAN, STD, False, False)
    assert loss == 0


def test_rows_beyond_32_bits():
    ids = torch.tensor([[0, 1]] * 2, device=DEVICE)
    tokens = far_apart((2, 2, 8), (2**31 + 16, 8, 1), torch.bfloat16)
    tokens.copy_(torch.randn(2, 2, 8))
    token, pos = torch.randn(8, device=DEVICE), torch.randn(1, 3, 8, device=DEVICE)
    expected = reference.unshuffle(tokens, token, pos, ids)
    assert torch.equal(unshuffle.unshuffle(tokens, token, pos, ids), expected)
    imgs = torch.randn(2, 3, 2, 4, device=DEVICE)
    pred = far_apart((2, 2, 12), (2**31 + 32, 16, 1), torch.bfloat16)
    pred.copy_(torch.randn(2, 2, 12))
    args = imgs, ids, 2, MEAN, STD, False
    torch.testing.assert_close(masked_mse.masked_mse(pred, *args, False)[0], reference.masked_mse(pred, *args))


@pytest.mark.filterwarnings("ignore:Warning only once for all operators")
def test_expanded_gradients_and_float64(implementation):
    imgs = torch.randn(2, 3, 4, 6, dtype=torch.float64, device=DEVICE, requires_grad=True)
    ids = torch.rand(2, 6, device=DEVICE).argsort(1)
    token, pos = (torch.randn(1, n, 12, dtype=torch.float64, device=DEVICE, requires_grad=True) for n in (1, 7))
    with implementation("triton"):
        patches = ops.gather_patches(imgs, ids[:, :3], 2, MEAN, STD, torch.float64)
        x = ops.unshuffle(torch.cat([patches[:, :1], patches], 1), token, pos, ids.argsort(1))
        loss = ops.masked_mse(x[:, 1:], imgs.detach(), ids[:, 3:], 2, MEAN, STD, True)
        fast = loss, *torch.autograd.grad(loss + x.sum(), [imgs, token, pos])
    patches = reference.gather_patches(imgs, ids[:, :3], 2, MEAN, STD, torch.float64)
    x = reference.unshuffle(torch.cat([patches[:, :1], patches], 1), token, pos, ids.argsort(1))
    loss = reference.masked_mse(x[:, 1:], imgs.detach(), ids[:, 3:], 2, MEAN, STD, True)
    for a, b in zip(fast, (loss, *torch.autograd.grad(loss + x.sum(), [imgs, token, pos])), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# The third: values beyond 32 bits, keys within them. The last: a head itself beyond 32-bit offsets, which is copied.
@pytest.mark.parametrize(
    "strides",
    [
        (2**31 + 64, 96, 32, 16, 1),
        (2**9, 96, 2**31 + 32, 16, 1),
        (2**9, 96, 2**30 + 32, 16, 1),
        (96, 2**30 + 16, 32, 16, 1),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["whole", "long"])
def test_heads_beyond_32_bits(strides, dtype):
    qkv = far_apart((2, 3, 3, 2, 16), strides, dtype)
    qkv.copy_(torch.randn(2, 3, 3, 2, 16))
    leaf, grad = qkv.clone().requires_grad_(), torch.randn(2, 3, 32, device=DEVICE, dtype=dtype)
    expected = reference.attention(leaf)
    out, lse = attention.attention(qkv)
    torch.testing.assert_close(out, expected.detach(), rtol=2**-7, atol=2**-7)
    grad_qkv, grad_bias = attention.attention_backward(grad, qkv, out, lse)
    assert grad_qkv.is_contiguous()
    torch.testing.assert_close(grad_bias, grad_qkv.float().sum((0, 1)), rtol=2**-6, atol=2**-5)
    torch.testing.assert_close(grad_qkv, *torch.autograd.grad(expected, leaf, grad), rtol=2**-6, atol=2**-5)


def test_heads_too_wide_are_refused_and_no_images_are_none():
    with pytest.raises(ValueError, match="heads of at most 128"):
        attention.attention(torch.empty(1, 3, 3, 1, 130, device=DEVICE))
    out, lse = attention.attention(torch.empty(0, 5, 3, 2, 16, device=DEVICE))
    assert out.shape == (0, 5, 32) and lse.shape == (0, 2, 5)
    qkv = torch.empty(0, 5, 3, 2, 16, device=DEVICE)
    grad_qkv, grad_bias = attention.attention_backward(out, qkv, out, lse)
    assert grad_qkv.shape == qkv.shape and grad_bias.shape == (3, 2, 16) and not grad_bias.any()


def test_of_nothing_there_are_no_rows_and_no_gradients():
    weight, x = torch.ones(8, device=DEVICE), torch.empty(0, 5, 8, device=DEVICE)
    s, out, mean, rstd = add_layer_norm.add_layer_norm(x, x, weight, weight, weight, 1e-6, torch.bfloat16)
    assert s.shape == out.shape == x.shape and out.dtype == torch.bfloat16 and mean.shape == rstd.shape == (0,)
    grads = add_layer_norm.add_layer_norm_backward(None, out, s, weight, mean, rstd, False, True)
    assert [grad.shape for grad in grads] == [x.shape, (0,), (3, 8)] and not grads[2].any()
    assert bias_gelu.bias_gelu(x, weight).shape == x.shape
    grad_x, grad_bias = bias_gelu.bias_gelu_backward(x, x, weight)
    assert grad_x.shape == x.shape and grad_bias.shape == (8,) and not grad_bias.any()


@pytest.mark.parametrize("D", [32, 768, 1280, 4096])
@pytest.mark.parametrize("rows", [1, 37])
def test_wide_and_narrow_norms(D, rows):
    """More rows than a program takes at a time, and widths that fill no power of two."""
    x, y, g = (torch.randn(rows, D, device=DEVICE) for _ in range(3))
    parameters = [torch.randn(D, device=DEVICE, requires_grad=True) for _ in range(3)]
    y_bias, weight, bias = (parameter.detach() for parameter in parameters)
    leaf = x.clone().requires_grad_()
    wanted_s, wanted = reference.add_layer_norm(leaf, y, *parameters, 1e-6, torch.float32)
    s, out, mean, rstd = add_layer_norm.add_layer_norm(x, y, y_bias, weight, bias, 1e-6, torch.float32)
    torch.testing.assert_close(out, wanted.detach(), rtol=1e-5, atol=1e-5)
    wanted_grads = torch.autograd.grad((wanted * g).sum() + (wanted_s * y).sum(), (leaf, *parameters))
    grads = add_layer_norm.add_layer_norm_backward(y, g, s, weight, mean, rstd, True, True)
    for got, expected in zip((grads[0], grads[2][2], *grads[2][:2]), wanted_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(grads[0], grads[1])


def test_a_launcher_runs_on_the_device_of_its_first_tensor(monkeypatch):
    """The gradient of a sum that nobody used comes as None."""
    devices = []
    monkeypatch.setattr(torch.cuda, "device", lambda device: devices.append(device) or contextlib.nullcontext())
    launch = ops.library._on_device(lambda *args: args)
    x = torch.zeros(2)
    assert launch(None, x, 3) == (None, x, 3) and launch(x, None)[0] is x
    assert devices == [x.device, x.device]
