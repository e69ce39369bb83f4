"""Drop path in the pass of the norm: the draws of timm, the numbers of the plain expression, in every block."""

import pytest
import torch
from torch import nn

from mae_fast.model.vit import DropPath, VisionTransformer

SIZES = dict(img_size=16, patch_size=4, num_classes=5, embed_dim=32, depth=3, num_heads=2, drop_path_rate=0.6)


def model(**more):
    torch.manual_seed(0)
    return VisionTransformer(**SIZES | more).train()


def plainly(model, imgs):
    """The logits with drop path as timm has it: a factor for each image, drawn after each branch is known."""

    def drop(rate, y):
        if rate == 0:
            return y
        keep = 1 - rate
        return y / keep * (keep + torch.rand(len(y), 1, 1, dtype=y.dtype)).floor()

    x = model.patch_embed(imgs)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1) + model.pos_embed
    for rate, block in zip((0.0, 0.3, 0.6), model.blocks, strict=True):
        x = x + drop(rate, block.attn(block.norm1(x)))
        x = x + drop(rate, block.mlp(block.norm2(x)))
    return model.head(model.fc_norm(x[:, 1:].mean(1)) if model.global_pool else model.norm(x)[:, 0])


@pytest.mark.parametrize("global_pool", [False, True])
def test_numbers_gradients_and_draws(global_pool):
    ours = model(global_pool=global_pool)
    imgs, upstream = torch.randn(9, 3, 16, 16), torch.randn(9, 5)
    results = []
    for forward in (ours, lambda imgs: plainly(ours, imgs)):
        torch.manual_seed(1)
        logits = forward(imgs)
        results.append([logits, *torch.autograd.grad(logits, list(ours.parameters()), upstream), torch.rand(3)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    torch.manual_seed(2)
    assert not torch.allclose(ours(imgs), results[0][0], atol=1e-3)  # something was dropped


def test_mixed_precision_is_no_farther_off_than_plain_pytorch():
    ours, imgs = model(), torch.randn(9, 3, 16, 16)
    logits = []
    for forward in (ours, lambda imgs: plainly(ours, imgs)):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            logits.append(forward(imgs).double())
    torch.manual_seed(1)
    drawn = [torch.rand(9, 1, 1, dtype=torch.bfloat16) for _ in range(4)]  # as autocast drew them
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda *shape, **kwargs: drawn.pop(0).double())
        exact = plainly(ours.double(), imgs.double())
    error, theirs = ((x - exact).abs().max() / exact.abs().max() for x in logits)
    assert error <= 2 * theirs + 1e-3


def test_the_op_adds_what_is_dropped(monkeypatch):
    """No addition outside of it: of 3 blocks, 6 branches, one is left for the end."""
    from mae_fast.model import stream

    scales, op = [], stream.ops.add_layer_norm
    monkeypatch.setattr(stream.ops, "add_layer_norm", lambda *args: scales.append(args[7]) or op(*args))
    model()(torch.randn(4, 3, 16, 16))
    assert [scale is not None for scale in scales] == [False, False, False, True, True, True]
    model().eval()(torch.randn(4, 3, 16, 16))
    assert scales[6:] == [None] * 6


def test_what_looks_at_drop_path_finds_it_called():
    seen, ours = [], model()
    ours.blocks[1].drop_path.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    ours.blocks[2].drop_path = nn.Dropout(0.5)
    ours(torch.randn(4, 3, 16, 16)).sum().backward()
    assert seen == [(4, 17, 32)] * 2
    assert isinstance(model().blocks[1].drop_path, DropPath)


def test_compiles_whole():
    ours, imgs = model(), torch.randn(4, 3, 16, 16)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    results = []
    for forward in (ours, compiled):
        torch.manual_seed(3)
        results.append(forward(imgs))
    torch.testing.assert_close(*results)
