"""Linear layers with a cheaper backward: same numbers, same gradients, and no work for gradients nobody asked for.

The float32 product of 16-bit numbers is CUDA's alone; here the CPU is told that it has one, and emulates it.
"""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mae_fast import reference
from mae_fast.model import linear as module
from mae_fast.model.linear import linear, qkv_attention
from mae_fast.parity.rule import FLOOR

HALVES = torch.bfloat16, torch.float16
HEADS = 2


@pytest.fixture(params=[False, True], ids=["plain", "float32 gradients"])
def emulated(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(module, "OUT_DTYPE", {"cpu"})
    return request.param


def autocast(dtype):
    return torch.autocast("cpu", dtype, enabled=dtype in HALVES)


def layer(dtype=torch.float32, bias=True):
    torch.manual_seed(0)
    return torch.nn.Linear(16, 48, bias=bias, dtype=dtype)


def fast_linear(x, layer):
    return linear(x, layer.weight, layer.bias)


def fast_attention(x, layer):
    return qkv_attention(x, layer, HEADS)


def plain_attention(x, layer):
    return reference.attention(layer(x).unflatten(-1, (3, HEADS, -1)))


FUNCTIONS = {"linear": (fast_linear, lambda x, layer: layer(x)), "attention": (fast_attention, plain_attention)}
functions = pytest.mark.parametrize("fast, plain", FUNCTIONS.values(), ids=FUNCTIONS)


def results(function, x, layer, upstream, dtype):
    """-> output, gradients of x, weight and bias."""
    x = x.clone().requires_grad_()
    with autocast(dtype):
        out = function(x, layer)
    return [out.detach(), *torch.autograd.grad(out, [x, *layer.parameters()], upstream.to(out.dtype))]


def assert_parity(fast, plain, exact):
    for ours, theirs, truth in zip(fast, plain, exact, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        size = truth.abs().max()
        error, allowed = ((y.double() - truth).abs().max() / size for y in (ours, theirs))
        assert error <= 2 * allowed + FLOOR[ours.dtype], (error, allowed)


@functions
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "parameters, compute",
    [(torch.float32, torch.float32), *product([torch.float32], HALVES), *((half, None) for half in HALVES)],
    ids=["fp32", "autocast bf16", "autocast fp16", "bf16", "fp16"],
)
def test_parity(fast, plain, bias, parameters, compute, emulated):
    mine = layer(parameters, bias)
    x = torch.randn(3, 37, 16, dtype=parameters)
    wide = layer(bias=bias).double()
    wide.load_state_dict(mine.state_dict())
    upstream = torch.randn_like(plain(x.double(), wide)).float()
    exact = results(plain, x.double(), wide, upstream, None)
    assert_parity(*(results(f, x, mine, upstream, compute) for f in (fast, plain)), exact)


def test_the_weights_gradient_is_not_rounded(monkeypatch):
    """To less than a float32's rounding in a sum of 300 products, where a bfloat16 result is 2**-9 off."""
    monkeypatch.setattr(module, "OUT_DTYPE", {"cpu"})
    mine, x, upstream = layer(), torch.randn(300, 16).bfloat16(), torch.randn(300, 48).bfloat16()
    _, _, weight, bias = results(fast_linear, x.float(), mine, upstream, torch.bfloat16)
    assert weight.dtype == bias.dtype == torch.float32
    torch.testing.assert_close(weight.double(), upstream.double().T @ x.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(bias.double(), upstream.double().sum(0), rtol=1e-5, atol=1e-5)


def test_cuda_forms_it_in_one_product():
    """On tensors of no memory, since there may be no GPU."""
    with FakeTensorMode():
        x, half, grad = (
            torch.empty(shape, dtype=torch.bfloat16, device="cuda") for shape in ((2, 5, 16), (48, 16), (2, 5, 48))
        )
        with Ops() as ops:
            grads = module._Linear.backward(SimpleNamespace(saved_tensors=(x, half), needs_input_grad=[True] * 3), grad)
    assert [(x.dtype, tuple(x.shape)) for x in grads[1:]] == [(torch.float32, (48, 16)), (torch.float32, (48,))]
    assert "mm.dtype" in ops.called and not any("copy" in name for name in ops.called)


class Ops(TorchDispatchMode):
    """The names of the ops that ran."""

    def __init__(self):
        super().__init__()
        self.called = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.called.append(str(op).removeprefix("aten."))
        return op(*args, **(kwargs or {}))


@functions
@pytest.mark.parametrize("wanted", [*product([True, False], repeat=3)], ids=str)
def test_no_work_for_gradients_that_nobody_asked_for(fast, plain, wanted, emulated):
    mine, x = layer(), torch.randn(2, 5, 16)
    tensors = x, mine.weight, mine.bias
    for tensor, want in zip(tensors, wanted, strict=True):
        tensor.requires_grad_(want)
    with autocast(torch.bfloat16):
        out = fast(x, mine)
    assert out.requires_grad == any(wanted)
    if not any(wanted):
        return
    with Ops() as ops:
        out.backward(torch.ones_like(out))
    assert [tensor.grad is not None for tensor in tensors] == list(wanted)
    products = [name for name in ops.called if name.startswith(("mm", "addmm", "bmm"))]
    assert len(products) == wanted[0] + wanted[1]
    if fast is fast_attention:
        assert not [name for name in ops.called if name.startswith("sum")]  # the bias took no pass of its own


@functions
def test_one_graph_when_compiled(fast, plain, emulated):
    mine, x, upstream = layer(), torch.randn(2, 5, 16), torch.randn(2, 5, 48 if fast is fast_linear else 16)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    for dtype in (torch.float32, torch.bfloat16):
        eager = results(fast, x, mine, upstream, dtype)
        for a, b in zip(results(compiled, x, mine, upstream, dtype), eager, strict=True):
            assert a.dtype == b.dtype
            torch.testing.assert_close(a, b, rtol=FLOOR[dtype] * 4, atol=FLOOR[dtype] * 4)


@functions
def test_no_graph_without_gradients(fast, plain, emulated):
    mine, x = layer(), torch.randn(2, 5, 16)
    with autocast(torch.bfloat16):
        expected = fast(x, mine).detach()
        for context in (torch.no_grad(), torch.inference_mode()):
            with context:
                out = fast(x, mine)
                assert torch.equal(out, expected) and not out.requires_grad


@functions
def test_checkpointed_and_used_twice(fast, plain, emulated):
    mine, x = layer(), torch.randn(2, 5, 16)

    def twice(run):
        mine.zero_grad()
        leaf = x.clone().requires_grad_()
        with autocast(torch.bfloat16):
            loss = run(fast, leaf, mine).square().sum() + run(fast, leaf + 1, mine).sum()
        loss.backward()
        return leaf.grad, mine.weight.grad, mine.bias.grad

    once = twice(lambda f, *args: f(*args))
    for a, b in zip(once, twice(lambda f, *args: checkpoint(f, *args, use_reentrant=False)), strict=True):
        assert torch.equal(a, b)
    grads = []
    for shift, power in ((0, 2), (1, 1)):
        leaf = x.clone().requires_grad_()
        with autocast(torch.bfloat16):
            loss = fast(leaf + shift, mine).pow(power).sum()
        grads.append(torch.autograd.grad(loss, [leaf, mine.weight, mine.bias]))
    for both, first, second in zip(once, *grads, strict=True):
        torch.testing.assert_close(both, first + second, rtol=2**-7, atol=2**-5)


def test_no_rows_and_one_row(emulated):
    mine = layer()
    with autocast(torch.bfloat16):
        for x in (torch.empty(0, 16), torch.randn(16)):
            out = linear(x.requires_grad_(), mine.weight, mine.bias)
            assert torch.equal(out, F.linear(x, mine.weight, mine.bias)) and out.dtype == torch.bfloat16
            out.sum().backward()
            assert x.grad.shape == x.shape
