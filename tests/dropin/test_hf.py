"""Hugging Face ViTMAE with and without accelerate(): same numbers, same outputs, and our ops behind them."""

import copy
import pickle

import pytest
import torch
from transformers import (
    ViTMAEModel,
)

from mae_fast.dropin import hf
from tests.dropin.hf_models import LAYERS, OURS, assert_accelerated_is_the_same, assert_same, flat, images, run, tiny

pytest.importorskip("transformers", "4.57")

# What each case does by Hugging Face's own code, of the six ops.
CASES = {
    "plain": ({}, {}, ()),
    "norm_pix": ({"norm_pix_loss": True}, {}, ()),
    "noise": ({}, {"noise": torch.rand(3, 16, dtype=torch.float64)}, ()),
    "hidden states": ({}, {"output_hidden_states": True}, ()),
    "tuple": ({}, {"return_dict": False}, ("masked_mse",)),
    "greyscale": ({"num_channels": 1}, {"pixel_values": images(1)}, ()),
    "other size": (
        {},
        {"pixel_values": images(size=(40, 48)), "interpolate_pos_encoding": True},
        ("random_masking", "gather_patches", "masked_mse"),
    ),
    "nothing masked": ({"mask_ratio": 0.0}, {}, ("masked_mse",)),
    "no bias": ({"qkv_bias": False}, {}, ()),
    "hidden dropout": ({"hidden_dropout_prob": 0.3}, {}, ()),
    "attention dropout": ({"attention_probs_dropout_prob": 0.3}, {}, ("attention",)),
    "another activation": ({"hidden_act": "relu"}, {}, ("bias_gelu",)),
    "sdpa": ({"attn_implementation": "sdpa"}, {}, ()),
}


@pytest.mark.parametrize("changes, inputs, theirs", CASES.values(), ids=CASES)
def test_same_outputs_and_gradients(changes, inputs, theirs, calls):
    model = tiny(**changes)
    inputs = {"pixel_values": images()} | inputs
    assert_accelerated_is_the_same(model, inputs, calls)
    assert calls == {op: 0 if op in theirs else count for op, count in OURS.items()}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype):
    model = tiny(norm_pix_loss=True)
    exact, wanted = run(copy.deepcopy(model).double(), images().double())
    with torch.autocast("cpu", dtype):
        plain, plain_gradients = run(model, images())
        hf.accelerate(model)
        ours, gradients = run(model, images())
    for mine, theirs, truth in ((ours, plain, exact), (gradients, plain_gradients, wanted)):
        errors = [
            sum((x[key].double() - truth[key]).norm() ** 2 for key in truth if truth[key].is_floating_point()) ** 0.5
            for x in (mine, theirs)
        ]
        assert errors[0] <= 2 * errors[1]
        assert {key: x.dtype for key, x in mine.items()} == {key: x.dtype for key, x in theirs.items()}


def test_encoder_alone(calls):
    model = tiny(ViTMAEModel, mask_ratio=0.0)
    expected, wanted = run(model, images())
    hf.accelerate(model)
    actual, got = run(model, images())
    assert_same(flat(actual), flat(expected))
    assert_same(got, wanted)
    assert calls["attention"] == 2


def test_attention_weights_come_from_their_code_and_it_says_so_once(calls):
    model = tiny().eval()
    expected, _ = run(model, images(), output_attentions=True)
    assert len(expected.attentions) == 2
    hf.accelerate(model)
    hf._warn_once.cache_clear()
    with pytest.warns(UserWarning, match="output_attentions") as warned:
        actual, _ = run(model, images(), output_attentions=True)
        run(model, images(), output_attentions=True)
    assert len([w for w in warned if "mae_fast" in str(w.message)]) == 1
    assert_same(flat(actual), flat(expected))
    assert calls["attention"] == 2 * 2  # the decoder, whose attentions are no output
    model.train().gradient_checkpointing_enable({"use_reentrant": False})
    actual, _ = run(model, images(), output_attentions=True)
    assert_same(flat(actual), flat(expected))
    model.gradient_checkpointing_disable()
    calls["attention"] = 0
    run(model, images())
    assert calls["attention"] == LAYERS


def test_one_model_and_not_another(calls):
    model, other = tiny(), tiny()
    expected, _ = run(other, images())
    hf.accelerate(model)
    other.gradient_checkpointing_enable({"use_reentrant": False})
    assert torch.equal(run(other, images())[0].loss, expected.loss)
    assert not any(calls.values())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        calls.update(dict.fromkeys(calls, 0))
        run(twin, images())
        assert calls == OURS


def test_a_forward_left_on_an_instance_is_no_obstacle(calls):
    """transformers 4 binds it there when it records hidden states."""
    model = tiny()
    for module in model.modules():
        if type(module).__module__.endswith("vit_mae"):
            module.forward = module.forward
    run(hf.accelerate(model), images())
    assert calls == OURS


def test_every_model_and_restore(calls):
    originals = {cls: cls.forward for cls in (type(m) for m in tiny().modules()) if cls.__module__.endswith("vit_mae")}
    model, accelerated = tiny(), hf.accelerate(tiny())
    assert hf.accelerate() is None
    run(model, images())
    assert calls == OURS
    hf.restore()
    assert {cls: cls.forward for cls in originals} == originals
    calls.update(dict.fromkeys(calls, 0))
    run(model, images())
    hf.accelerate(model)
    run(accelerated, images())  # what an earlier accelerate() marked is not marked any more
    assert not any(calls.values())
