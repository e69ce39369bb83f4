"""Losses by name: the fast model held to the plain one, losses that do not fit refused, checkpoints that remember."""

import pytest
import torch

import mae_fast
from mae_fast import ops
from mae_fast.config import LOSSES
from mae_fast.model.losses import PIXEL_LOSSES
from mae_fast.parity.model import check
from tests.model.pairs import TINY, both, error, gradients, images

WAYS = [
    dict(loss=loss, norm_pix_loss=norm) for loss in LOSSES for norm in (False, True) if (loss, norm) != ("bce", True)
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(map(str, way.values())))
@pytest.mark.parametrize("uint8", [True, False])
def test_as_the_plain_model(way, uint8):
    fast, naive = both(**way)
    imgs, noise = images(fast, uint8=uint8), torch.rand(3, 16)
    loss, pred, mask = naive(imgs, 0.75, noise)
    expected = gradients(naive, loss)
    for number in (fast(imgs, 0.75, noise)[0], fast.training_loss(imgs, 0.75, noise)):
        assert error(number, loss) < 1e-5
        found = gradients(fast, number)
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=2e-5)
    assert error(fast.forward_loss(imgs, pred, mask), loss) < 1e-5
    halves = torch.rand(3, 16)
    assert error(fast.forward_loss(imgs, pred, halves), naive.forward_loss(imgs, pred, halves)) < 1e-5


@pytest.mark.parametrize("loss", LOSSES[1:])
def test_parity_rule(loss):
    torch.manual_seed(0)
    kwargs = TINY | dict(loss=loss)
    rows = check(mae_fast.MaskedAutoencoderViT(**kwargs), kwargs, [torch.float32, torch.bfloat16], batch=4)
    assert all(row.holds for row in rows), [row for row in rows if not row.holds]


def test_losses_are_those_of_pytorch():
    pred, imgs = torch.randn(2, 5, 12), torch.rand(2, 3, 6, 8)
    ids = torch.rand(2, 12).argsort(1)[:, :5]
    target = mae_fast.reference.take(mae_fast.reference.patchify(imgs, 2), ids)
    mean, std = [0.5] * 3, [0.25] * 3
    functional = torch.nn.functional
    expected = {
        "mse": functional.mse_loss(pred, target),
        "l1": functional.l1_loss(pred, target),
        "smooth_l1": functional.smooth_l1_loss(pred, target),
        "bce": functional.binary_cross_entropy_with_logits(pred, target * 0.25 + 0.5),
    }
    assert PIXEL_LOSSES.keys() == expected.keys() == set(LOSSES)
    for name, value in expected.items():
        torch.testing.assert_close(PIXEL_LOSSES[name].masked(pred, imgs, ids, 2, mean, std, False), value)


def test_bce_predicts_logits_of_pixels():
    model = mae_fast.MaskedAutoencoderViT(**TINY, loss="bce")
    imgs = images(model, uint8=True)
    patches = model.patchify(imgs)
    unit = mae_fast.reference.patchify(imgs.permute(0, 3, 1, 2) / 255, 8)
    pred = torch.logit(unit.clamp(1e-6, 1 - 1e-6))
    torch.testing.assert_close(model.to_pixels(pred, patches), patches, rtol=1e-4, atol=1e-4)
    ones = torch.ones(3, 16)
    assert model.forward_loss(imgs, pred, ones) < model.forward_loss(imgs, pred + 0.1, ones)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_a_picture_put_together_again(norm_pix_loss):
    """Predictions that are right give the picture back, and only predicted patches change."""
    model = mae_fast.MaskedAutoencoderViT(**TINY, norm_pix_loss=norm_pix_loss)
    imgs = torch.randn(2, 3, 32, 32)
    ids = torch.rand(2, 16).argsort(1)[:, :12]
    target = mae_fast.reference.take(model.patchify(imgs), ids)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model.paste(imgs, target, ids), imgs, rtol=1e-4, atol=1e-4)
    pred = torch.randn_like(target, requires_grad=True)
    changed = (model.paste(imgs, pred, ids) - imgs).abs() > 0
    kept = torch.ones(2, 16).scatter(1, ids, 0)
    assert not (model.patchify(changed.float()).amax(-1) * kept).any()
    assert torch.autograd.grad(model.paste(imgs, pred, ids).sum(), pred)[0].abs().amin() > 0


@pytest.mark.parametrize(
    "bad, name", [(dict(loss="l2"), "loss"), (dict(loss="bce", norm_pix_loss=True), "norm_pix_loss")]
)
def test_what_does_not_fit_is_refused(bad, name):
    with pytest.raises(ValueError, match=f"^{name}: "):
        mae_fast.MaskedAutoencoderViT(**TINY, **bad)
    with pytest.raises(ValueError, match=r"^beta: "):
        ops.masked_smooth_l1(
            torch.zeros(1, 1, 4), torch.zeros(1, 1, 4, 4), torch.zeros(1, 1).long(), 2, [], [], False, -1
        )


def test_a_checkpoint_remembers():
    model = mae_fast.MaskedAutoencoderViT(**TINY, loss="smooth_l1")
    from mae_fast.files import layouts

    assert mae_fast.MaskedAutoencoderViT(**TINY, loss=layouts.describe(model)["loss"]).loss == "smooth_l1"
