"""Hugging Face ViTMAE with and without accelerate(): same numbers, same outputs, and our ops behind them."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from mae_fast import ops
from mae_fast.dropin import hf

pytest.importorskip("transformers", "4.57")

from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTForMaskedImageModeling,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
    ViTModel,
)

LAYERS = 4  # two encoder, two decoder
OURS = {"attention": LAYERS, "bias_gelu": LAYERS, "add_layer_norm": 2 * LAYERS}
OURS |= {"random_masking": 1, "gather_patches": 1, "masked_mse": 1}


def tiny(cls=ViTMAEForPreTraining, config_class=ViTMAEConfig, **changes):
    """A model in training, away from the zeros and ones of initialisation."""
    config = dict(
        image_size=32, patch_size=8, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
        decoder_intermediate_size=64, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    model = cls(config_class(**config | changes)).train()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    return model


def images(channels=3, size=(32, 32)):
    return torch.randn(3, channels, *size, generator=torch.Generator().manual_seed(1))


def run(model, *args, **kwargs):
    """-> (outputs, every gradient), masks and dropout drawn from the same seed."""
    torch.manual_seed(2)
    model.zero_grad()
    outputs = model(*args, **kwargs)
    outputs[0].sum().backward()
    return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def flat(outputs):
    """Tensors by the place they have in the outputs."""
    items = outputs.items() if hasattr(outputs, "items") else enumerate(outputs)
    result = {}
    for key, value in items:
        result |= {(key, i): x for i, x in enumerate(value)} if isinstance(value, tuple) else {key: value}
    return result


def assert_same(actual, expected, tolerance=1e-5):
    assert actual.keys() == expected.keys()
    scale = max(x.abs().max().item() for x in expected.values() if x.is_floating_point() and not x.isnan().any())
    for key, x in expected.items():
        assert actual[key].dtype == x.dtype, key
        size = max(x.nan_to_num().abs().max().item(), 1e-2 * scale)
        assert torch.allclose(actual[key], x, rtol=0, atol=tolerance * size, equal_nan=True), key


@pytest.fixture(autouse=True)
def restored():
    yield
    hf.restore()


@pytest.fixture
def calls(monkeypatch):
    """How often each of our ops was called."""
    count = dict.fromkeys(OURS, 0)

    def counting(name, op):
        def call(*args):
            count[name] += 1
            return op(*args)

        return call

    for name in count.keys() - {"attention"}:
        monkeypatch.setattr(ops, name, counting(name, getattr(ops, name)))
    monkeypatch.setitem(hf.ATTENTION, "auto", counting("attention", hf.ATTENTION["auto"]))
    return count


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
    expected, wanted = run(model, **inputs)
    assert not any(calls.values())
    assert hf.accelerate(model) is model
    actual, got = run(model, **inputs)
    assert type(actual) is type(expected)
    assert_same(flat(actual), flat(expected))
    assert_same(got, wanted)
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
    hf._say_once.cache_clear()
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


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant, calls):
    model = tiny()
    expected, wanted = run(model, images())
    hf.accelerate(model)
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    actual, got = run(model, images())
    assert calls["attention"] == 2 * LAYERS  # once more each
    assert_same(flat(actual), flat(expected))
    assert_same(got, wanted)


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


def test_saved_and_loaded(tmp_path, calls):
    model = tiny()
    keys = list(model.state_dict())
    hf.accelerate(model)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    hf.accelerate()
    again = ViTMAEForPreTraining.from_pretrained(tmp_path).train()
    assert torch.equal(run(again, images())[0].loss, run(model, images())[0].loss)
    assert calls["attention"] == 2 * LAYERS


def test_hooks_and_wrapped_layers_still_run(calls):
    model = hf.accelerate(tiny())
    layer = model.vit.layers[0] if hasattr(model.vit, "layers") else model.vit.encoder.layer[0]
    seen = []
    projection = layer.attention.q_proj if hasattr(layer.attention, "q_proj") else layer.attention.attention.query
    projection.register_forward_hook(lambda *_: seen.append("q"))
    layer.attention.register_forward_hook(lambda *_: seen.append("attention"))
    run(model, images())
    assert seen == ["q", "attention"]
    assert calls["attention"] == LAYERS - 1


def test_compiles_whole():
    model, noise = hf.accelerate(tiny()), torch.rand(3, 16)
    expected, wanted = run(model, images(), noise)
    actual, got = run(torch.compile(model, backend="eager", fullgraph=True), images(), noise)
    assert_same({"loss": actual.loss}, {"loss": expected.loss})
    assert_same({name.removeprefix("_orig_mod."): grad for name, grad in got.items()}, wanted)


def test_trainer_takes_the_same_ten_steps(tmp_path, calls):
    pytest.importorskip("accelerate", reason="the Trainer needs it")
    from transformers import Trainer, TrainingArguments

    class Recorded(Trainer):
        def compute_loss(self, *args, **kwargs):
            self.losses = [*getattr(self, "losses", ()), None]
            loss = super().compute_loss(*args, **kwargs)
            self.losses[-1] = loss.item()
            return loss

    data = [{"pixel_values": image} for image in torch.randn(40, 3, 32, 32)]

    def losses(model):
        arguments = TrainingArguments(
            str(tmp_path), max_steps=10, per_device_train_batch_size=4, learning_rate=1e-3, seed=3, save_strategy="no",
            report_to=[], use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Recorded(model, arguments, train_dataset=data)
        trainer.train()
        return torch.tensor(trainer.losses)

    expected = losses(tiny())
    assert not any(calls.values())
    actual = losses(hf.accelerate(tiny()))
    assert calls["attention"] == 10 * LAYERS
    assert len(expected) == 10 and expected[-1] < expected[0]
    assert torch.allclose(actual, expected, rtol=0, atol=1e-5)


# ---- ViT: what people finetune after pretraining ----

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
    expected, wanted = run(model, **inputs)
    assert not any(calls.values())
    assert hf.accelerate(model) is model
    actual, got = run(model, **inputs)
    assert type(actual) is type(expected)
    assert_same(flat(actual), flat(expected))
    assert_same(got, wanted)
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
