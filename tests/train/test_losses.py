"""Terms of the loss: a frozen network's features and a discriminator, held to plain versions; runs with them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mae_fast
from mae_fast.files.checkpoint import load_file, load_pretrained
from mae_fast.train import Adversarial, Perceptual, pretrain
from mae_fast.train.losses import patch_discriminator
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep
from tests.train.runs import flags, log, parse, run, same
from tests.train.steps import SIZES, batches


class Features(nn.Module):
    """A network of a user's: two maps, by name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        first = self.norm(self.first(x)).tanh()
        return {"first": first, "second": self.second(first)}


def model_and_batch(**more):
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**SIZES, **more), torch.randn(4, 3, 32, 32), torch.rand(4, 16)


def pasted(model, imgs, noise):
    """-> the loss, and the picture put together by the official pieces of the model."""
    loss, pred, mask = model(imgs, 0.75, noise)
    mask = mask.unsqueeze(-1)
    return loss, model.unpatchify(model.patchify(imgs) * (1 - mask) + pred * mask)


def grads(loss, parameters):
    return torch.autograd.grad(loss, list(parameters), allow_unused=True)


def close(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=2e-5)


def trained(model):
    return [p for name, p in model.named_parameters() if p.requires_grad]


def test_features_as_a_plain_loop():
    model, imgs, noise = model_and_batch()
    features = Features()
    loss = mae_fast.MAELoss(model, 0.75, lambda *_: noise, terms=[Perceptual(features, 0.3)]).train()
    assert not features.training and not any(p.requires_grad for p in features.parameters())
    pixels, picture = pasted(model, imgs, noise)
    pairs = zip(features(picture).values(), features(imgs).values(), strict=True)
    expected = pixels + 0.3 * sum(((a - b) ** 2).mean() for a, b in pairs) / 2
    torch.testing.assert_close(loss(imgs), expected)
    close(grads(loss(imgs), trained(model)), grads(expected, trained(model)))


def test_a_discriminator_as_two_plain_steps():
    model, imgs, noise = model_and_batch()
    term = Adversarial(weight=0.3)
    loss = mae_fast.MAELoss(model, 0.75, lambda *_: noise, terms=[term])
    D = term.discriminator
    pixels, picture = pasted(model, imgs, noise)
    expected = pixels - 0.3 * D(picture).mean()
    own = F.relu(1 - D(imgs)).mean() + F.relu(1 + D(picture.detach())).mean()
    torch.testing.assert_close(loss(imgs), expected)
    both = grads(loss(imgs), [*trained(model), *D.parameters()])
    close(both, [*grads(expected, trained(model)), *grads(own, D.parameters())])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_trains_both_and_skips_both(dtype):
    model, *_ = model_and_batch()
    term = Adversarial(weight=0.1, lr=1e-2)
    optimizer = make_optimizer(model, "adamw", 1e-3, 0.05)
    step = TrainingStep(mae_fast.MAELoss(model, terms=[term]), optimizer, dtype=dtype, clip_grad=1.0)
    assert not set(step.parameters) & set(term.discriminator.parameters())
    before = [p.clone() for p in (*model.parameters(), *term.discriminator.parameters())]
    assert all(step(imgs, 1e-3).isfinite() for imgs in batches(2))
    after = [p.clone() for p in (*model.parameters(), *term.discriminator.parameters())]
    changed = [not torch.equal(a, b) for a, b, p in zip(before, after, step.module.parameters(), strict=True) if p.requires_grad]  # noqa: E501  # fmt: skip
    assert all(changed) and term.optimizer.param_groups[0]["lr"] == 1e-2
    assert step(torch.full((4, 3, 32, 32), float("nan")), 1e-3).isnan()
    assert all(torch.equal(a, b) for a, b in zip(after, (*model.parameters(), *term.discriminator.parameters()), strict=True))  # noqa: E501  # fmt: skip


def test_compiles_whole():
    model, imgs, noise = model_and_batch(loss="smooth_l1")
    terms = [Perceptual(Features(), 0.3), Adversarial(weight=0.3)]
    loss = mae_fast.MAELoss(model, 0.75, lambda *_: noise, terms=terms)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    wanted, parameters = loss(imgs), [p for p in loss.parameters() if p.requires_grad]
    torch.testing.assert_close(compiled(imgs), wanted)
    close(grads(compiled(imgs), parameters), grads(wanted, parameters))


def test_what_no_term_can_be_is_refused():
    for make in (lambda: Perceptual(Features(), -1), lambda: Adversarial(weight=float("nan"))):
        with pytest.raises(ValueError, match=r"^weight: "):
            make()
    with pytest.raises(ValueError, match=r"^discriminator: "):
        Adversarial(nn.Flatten())


def test_a_run_with_a_discriminator_goes_on_as_if_it_never_stopped(photos, tmp_path):
    """And so do its loss and its masks, which are flags."""
    np.save(tmp_path / "mask.npy", np.triu(np.ones((4, 4))))
    more = "--loss=l1", f"--mask={tmp_path / 'mask.npy'}", "--masks_per_image=2", "--save_every=1", "--epochs=2"

    def train(out, *and_more):
        torch.manual_seed(5)
        term = Adversarial(patch_discriminator(3, width=8), weight=0.1)
        pretrain(parse(flags(photos, tmp_path / out, *more, *and_more)), terms=[term])
        return load_file(tmp_path / out / "checkpoint-1.pth")["model"], term.state()

    whole = train("whole")
    first = tmp_path / "whole" / "checkpoint-0.pth"
    assert same(train("resumed", f"--resume={first}"), whole)
    assert all(np.isfinite(line["train_loss"]) for line in log(tmp_path / "whole"))
    assert load_pretrained(first).loss == load_file(first)["args"].loss == "l1"
    with pytest.raises(ValueError, match="holds 1 terms that learn, and this run has 0"):
        pretrain(parse(flags(photos, tmp_path / "none", *more, f"--resume={first}")))


@pytest.mark.parametrize(
    "more, says",
    [
        (["--loss=bce", "--norm_pix_loss"], "loss: bce"),
        (["--mask=nowhere.npy"], "mask: nowhere.npy: no such file"),
        (["--masks_per_image=0"], "masks_per_image"),
    ],
)
def test_settings_that_cannot_work(photos, tmp_path, more, says):
    with pytest.raises((ValueError, OSError, SystemExit), match=says):
        run(photos, tmp_path / "o", *more)
