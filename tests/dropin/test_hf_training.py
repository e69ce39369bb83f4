"""Accelerated models in training: hooks, checkpointing, compilation, the Trainer."""

import pytest
import torch
from transformers import (
    ViTMAEForPreTraining,
)

from mae_fast.dropin import hf
from tests.dropin.hf_models import LAYERS, assert_same, flat, images, run, tiny

pytest.importorskip("transformers", "4.57")


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
