"""LARS, layer-wise decay and twenty steps of finetuning: the numbers of the official code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mae_fast.data.timm_parts import _part
from mae_fast.model.vit import VisionTransformer
from mae_fast.recipe import Finetune
from mae_fast.train.classify import ClassifierLoss
from mae_fast.train.lars import LARS
from mae_fast.train.layer_decay import decayed_groups, finetuning_optimizer
from mae_fast.train.optim import lr_at, set_lr
from mae_fast.train.step import TrainingStep
from tests.dropin.test_official_scripts import CLONE, missing
from tests.train import official_finetuning as given

HERE = Path(__file__)
OFFICIAL = json.loads(HERE.with_name("official_finetuning.json").read_text())
RECIPE = given.RECIPE


def classifier():
    model = VisionTransformer(global_pool=True, norm_layer=given.NORM, **given.SIZES)
    given.fill(model)
    return model


def test_lars():
    parameters = given.lars_parameters()
    optimizer = LARS(parameters, **given.LARS)
    for step in range(3):
        given.give_gradients(parameters, step)
        optimizer.step()
    for p, expected in zip(parameters, OFFICIAL["lars"], strict=True):
        assert torch.allclose(p, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_lars_does_nothing_where_a_gradient_is_not_finite():
    parameters = given.lars_parameters()
    optimizer = LARS(parameters, **given.LARS)
    before = [p.detach().clone() for p in parameters]
    given.give_gradients(parameters, 0)
    parameters[0].grad[0, 0] = torch.nan
    optimizer.found_inf = torch.tensor(1.0)
    optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(parameters, before, strict=True))
    del optimizer.found_inf
    for step in range(3):
        given.give_gradients(parameters, step)
        optimizer.step()
    assert torch.allclose(parameters[0], torch.tensor(OFFICIAL["lars"][0]), rtol=1e-6, atol=1e-6)


def test_layer_decay():
    model = classifier()
    names = {p: name for name, p in model.named_parameters()}
    groups = decayed_groups(model, RECIPE["weight_decay"], RECIPE["layer_decay"])
    assert [[g["lr_scale"], g["weight_decay"], [names[p] for p in g["params"]]] for g in groups] == OFFICIAL["groups"]
    optimizer = finetuning_optimizer(model, RECIPE["lr"], RECIPE["weight_decay"], RECIPE["layer_decay"])
    named = dict(sorted(model.named_parameters()))
    for step in range(3):
        given.give_gradients(named.values(), step)
        set_lr(optimizer, RECIPE["lr"])
        optimizer.step()
    for name, expected in OFFICIAL["layer_decay"].items():
        assert given.digest(named[name]) == pytest.approx(expected, rel=1e-6, abs=1e-6), name


def test_twenty_steps_of_finetuning():
    """The loss of main_finetune.py's engine, from the same weights, on the same batches."""
    recipe = Finetune.of(aa="none", **{name: x for name, x in RECIPE.items()})
    schedule, model = recipe.schedule.at_batch(8), classifier()
    optimizer = finetuning_optimizer(model, schedule.lr, recipe.weight_decay, recipe.layer_decay)
    step = TrainingStep(ClassifierLoss(model, recipe.smoothing), optimizer, clip_grad=recipe.clip_grad)
    losses, lrs = [], []
    for epoch in range(2):
        for number, (imgs, labels) in enumerate(given.batches(epoch)):
            lrs.append(lr_at(epoch + number / given.BATCHES, schedule))
            losses.append(step(imgs, lrs[-1], labels).item())
    assert lrs == pytest.approx(OFFICIAL["finetune"]["lrs"], rel=1e-6)
    assert losses == pytest.approx(OFFICIAL["finetune"]["losses"], rel=1e-4)
    assert len(losses) == 20 and min(losses[10:]) < min(losses[:10])


def test_smoothing_and_mixed_targets_are_those_of_timm():
    path = Path(_part("mixup").__file__).parents[1] / "loss" / "cross_entropy.py"
    theirs = {}
    exec(path.read_text(), theirs)  # the file alone: the package around it wants torchvision
    logits, labels = torch.randn(6, 5), torch.arange(6) % 5
    targets = torch.rand(6, 5).softmax(1)
    model = torch.nn.Identity()
    ours = [ClassifierLoss(model, 0.1)(logits, labels), ClassifierLoss(model, 0.1)(logits, targets)]
    expected = [
        theirs["LabelSmoothingCrossEntropy"](0.1)(logits, labels),
        theirs["SoftTargetCrossEntropy"]()(logits, targets),
    ]
    assert [x.item() for x in ours] == pytest.approx([x.item() for x in expected], rel=1e-6)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_the_official_numbers_are_made_again(tmp_path):
    runner, out = HERE.parents[1] / "dropin" / "run_official.py", tmp_path / "numbers.json"
    path = os.pathsep.join([CLONE, str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(runner), "models_vit", str(HERE.with_name("official_finetuning.py")), str(out)]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": path})
    again = json.loads(out.read_text())
    assert again["groups"] == OFFICIAL["groups"]
    assert again["finetune"]["losses"] == pytest.approx(OFFICIAL["finetune"]["losses"], rel=1e-4)
    for found, expected in zip(again["lars"], OFFICIAL["lars"], strict=True):
        assert torch.allclose(torch.tensor(found), torch.tensor(expected), atol=1e-6)
    for name, expected in OFFICIAL["layer_decay"].items():
        assert again["layer_decay"][name] == pytest.approx(expected, rel=1e-6, abs=1e-6)
