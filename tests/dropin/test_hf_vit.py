"""Hugging Face's ViT on our ops, and what cannot be accelerated."""

import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTModel,
)

from mae_fast.dropin import hf
from tests.dropin.hf_models import assert_accelerated_is_the_same, assert_same, flat, images, run, tiny

pytest.importorskip("transformers", "4.57")

VIT_LAYERS = 2


VIT = {"attention": VIT_LAYERS, "bias_gelu": VIT_LAYERS, "add_layer_norm": 2 * VIT_LAYERS}


MASKED = torch.rand(3, 16, generator=torch.Generator().manual_seed(5)) < 0.5


def tiny_vit(cls, **changes):
    return tiny(cls, ViTConfig, **{"encoder_stride": 8, "num_labels": 5} | changes)


@pytest.mark.parametrize(
    "cls, inputs",
    [
        (ViTModel, {}),
        (ViTModel, {"output_hidden_states": True}),
        (ViTModel, {"pixel_values": images(size=(40, 48)), "interpolate_pos_encoding": True}),
        (ViTForImageClassification, {"labels": torch.tensor([0, 4, 2])}),
        (ViTForImageClassification, {"return_dict": False}),
        (ViTForMaskedImageModeling, {"bool_masked_pos": MASKED}),
    ],
)
@pytest.mark.parametrize(
    "changes, theirs",
    [({}, ()), ({"attention_probs_dropout_prob": 0.3}, ("attention",)), ({"hidden_act": "relu"}, ("bias_gelu",)),
     ({"hidden_dropout_prob": 0.3}, ()), ({"qkv_bias": False}, ())],
    ids=str,
)  # fmt: skip
def test_vit_gives_the_same_outputs_and_gradients(cls, inputs, changes, theirs, calls):
    model = tiny_vit(cls, **changes)
    inputs = {"pixel_values": images()} | inputs
    assert_accelerated_is_the_same(model, inputs, calls)
    assert {op: calls[op] for op in VIT} == {op: 0 if op in theirs else count for op, count in VIT.items()}
    hf.restore()
    calls.update(dict.fromkeys(calls, 0))
    run(model, **inputs)
    assert not any(calls.values())


def test_attention_weights_of_vit(calls):
    model = tiny_vit(ViTForImageClassification).eval()
    expected, _ = run(model, images(), output_attentions=True)
    assert len(expected.attentions) == VIT_LAYERS
    hf.accelerate(model)
    actual, _ = run(model, images(), output_attentions=True)
    assert_same(flat(actual), flat(expected))
    assert not calls["attention"]
    run(model, images())
    assert calls["attention"] == VIT_LAYERS


def test_every_model_means_vit_too(calls):
    hf.accelerate()
    run(tiny_vit(ViTForImageClassification), images())
    assert {op: calls[op] for op in VIT} == VIT


def test_what_cannot_be_accelerated():
    with pytest.raises(ValueError, match="ViTMAEModel or ViTModel, found none in Linear"):
        hf.accelerate(nn.Linear(2, 2))


def test_old_transformers_is_refused(monkeypatch):
    monkeypatch.setattr(hf, "version", lambda name: "4.56.2")
    with pytest.raises(ImportError, match=r"4\.57 or newer, found 4\.56\.2"):
        hf.accelerate()


def test_importing_mae_fast_does_not_import_transformers():
    code = "import sys, mae_fast; mae_fast.hf.restore(); sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
