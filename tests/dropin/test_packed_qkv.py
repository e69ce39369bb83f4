"""fuse_attention on blocks as other packages write them: fused where exact, refused with a reason where not."""

import copy
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mae_fast
from mae_fast.model.attention import ATTENTION

DIM, HEADS = 32, 4


class Attention(nn.Module):
    """As in timm, DINO and the official MAE."""

    def __init__(self, attn_drop=0.0, proj_drop=0.0):
        super().__init__()
        self.num_heads, self.scale = HEADS, (DIM // HEADS) ** -0.5
        self.qkv = nn.Linear(DIM, 3 * DIM)
        self.q_norm, self.k_norm = nn.Identity(), nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(DIM, DIM)
        self.proj_drop = nn.Dropout(proj_drop)

    def scores(self, q, k, mask):
        scores = self.q_norm(q) @ self.k_norm(k).transpose(-2, -1) * self.scale
        return scores if mask is None else scores + mask

    def forward(self, x, attn_mask: Tensor | None = None):
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        x = self.attn_drop(self.scores(q, k, attn_mask).softmax(-1)) @ v
        return self.proj_drop(self.proj(x.transpose(1, 2).reshape(B, N, D)))


class OtherScale(Attention):
    def __init__(self):
        super().__init__()
        self.scale = 0.2


class Normalised(Attention):
    def __init__(self):
        super().__init__()
        self.q_norm = nn.LayerNorm(DIM // HEADS, elementwise_affine=False)


class Biased(Attention):
    """Of zeros at first, so that only training makes a difference."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(HEADS, 1, 1))

    def scores(self, q, k, mask):
        return super().scores(q, k, mask) + self.bias


class WithWeights(Attention):
    def forward(self, x):
        return super().forward(x), None


class HiddenDropout(Attention):
    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, self.training)


class InWindows(Attention):
    def forward(self, x):
        B, H, W, D = x.shape
        return super().forward(x.reshape(B, H * W, D)).reshape(B, H, W, D)


class Convolved(Attention):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Conv2d(DIM, 3 * DIM, 1)


REFUSED = {
    OtherScale: "computes something else",
    Normalised: "computes something else",
    HiddenDropout: "computes something else",
    Biased: "has more parameters: bias",
    WithWeights: "returns a tuple",
    InWindows: "cannot be run on tokens alone: ValueError",
    Convolved: "expected linear layers qkv and proj",
}


class Block(nn.Module):
    def __init__(self, attn):
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(DIM), attn

    def forward(self, x, **kwargs):
        return x + self.attn(self.norm(x), **kwargs)


@pytest.fixture(autouse=True)
def unfused():
    yield
    mae_fast.unfuse_attention()


@pytest.fixture
def calls(monkeypatch):
    count, op = [], ATTENTION["auto"]
    monkeypatch.setitem(ATTENTION, "auto", lambda qkv: count.append(qkv.dtype) or op(qkv))
    return count


def run(model, x, **kwargs):
    torch.manual_seed(1)
    model.zero_grad()
    out = model(x, **kwargs)
    out.square().sum().backward()
    return [out, *(p.grad.clone() for p in model.parameters())]


def close(actual, expected):
    return all(
        torch.allclose(a, e, rtol=0, atol=1e-5 * e.abs().max().item()) for a, e in zip(actual, expected, strict=True)
    )


def test_fused_blocks_give_the_same_numbers(calls):
    torch.manual_seed(0)
    model, x = nn.Sequential(Block(Attention(proj_drop=0.5)), Block(Attention())), torch.randn(2, 9, DIM)
    keys, expected = list(model.state_dict()), run(model, x)
    assert mae_fast.fuse_attention(model) == {"0.attn": "fused", "1.attn": "fused"}
    calls.clear()  # those of the check
    assert close(run(model, x), expected)
    assert len(calls) == 2
    assert list(model.state_dict()) == keys
    run(copy.deepcopy(model), x)
    assert len(calls) == 4
    mae_fast.unfuse_attention()
    assert all(torch.equal(a, e) for a, e in zip(run(model, x), expected, strict=True))
    assert len(calls) == 4


def test_only_the_given_module_is_fused(calls):
    model, other = Block(Attention()), Block(Attention())
    mae_fast.fuse_attention(model)
    calls.clear()
    run(other, torch.randn(2, 5, DIM))
    assert not calls


def test_what_is_asked_beyond_runs_their_code(calls):
    model, x = Block(Attention(attn_drop=0.5)), torch.randn(2, 6, DIM)
    mask = torch.randn(6, 6)
    in_training, masked, plain = run(model, x), run(model.eval(), x, attn_mask=mask), run(model, x)
    assert mae_fast.fuse_attention(model) == {"attn": "fused"}
    calls.clear()
    assert all(torch.equal(a, e) for a, e in zip(run(model.train(), x), in_training, strict=True))
    assert all(torch.equal(a, e) for a, e in zip(run(model.eval(), x, attn_mask=mask), masked, strict=True))
    assert not calls
    assert close(run(model, x, attn_mask=None), plain)
    assert len(calls) == 1


@pytest.mark.parametrize("cls", REFUSED)
def test_refused_with_the_reason_and_left_alone(cls, calls):
    model = nn.Sequential(Block(cls()), Block(Attention()))
    result = mae_fast.fuse_attention(model)
    assert result["0.attn"].startswith(REFUSED[cls])
    assert result["1.attn"] == "fused"
    calls.clear()
    with suppress(
        TypeError, ValueError, RuntimeError
    ):  # what returns or takes something else does not run in this block
        model[0](torch.randn(2, 5, DIM))
    assert not calls


def test_nothing_to_fuse():
    with pytest.raises(ValueError, match="no attention with a packed qkv in Linear"):
        mae_fast.fuse_attention(nn.Linear(2, 2))


def test_initial_weights_and_random_state_are_left_alone():
    model = Block(Attention())
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    mae_fast.fuse_attention(model)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(torch.get_rng_state(), random)
