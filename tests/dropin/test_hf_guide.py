"""The path of Hugging Face's guides, plain and on our ops: pretrain, save, load the encoder into a classifier."""

import pytest
import torch

pytest.importorskip("transformers", "4.57")
pytest.importorskip("accelerate", reason="the Trainer needs it")

from transformers import Trainer, TrainingArguments, ViTForImageClassification, ViTMAEForPreTraining

from mae_fast.cli import main
from mae_fast.config import TINY
from mae_fast.dropin import hf
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from tests.dropin.hf_models import LAYERS, tiny

STEPS, ENCODER_LAYERS = 6, 2


class Recorded(Trainer):
    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses = [*getattr(self, "losses", ()), loss.item()]
        return loss


def losses(model, folder, labelled):
    generator = torch.Generator().manual_seed(1)
    data = [{"pixel_values": image} for image in torch.randn(24, 3, 32, 32, generator=generator)]
    if labelled:
        data = [row | {"labels": i % 3} for i, row in enumerate(data)]
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=4, learning_rate=1e-3, seed=3, save_strategy="no",
        report_to=[], use_cpu=True, disable_tqdm=True, remove_unused_columns=False,
    )  # fmt: skip
    trainer = Recorded(model, arguments, train_dataset=data)
    trainer.train()
    return torch.tensor(trainer.losses)


def classifier(folder):
    """-> ViTForImageClassification with the encoder of a saved ViTMAE, its head drawn from a seed."""
    torch.manual_seed(4)
    model, info = ViTForImageClassification.from_pretrained(
        folder, num_labels=3, output_loading_info=True, attn_implementation="eager"
    )
    assert {key.split(".")[0] for key in info["missing_keys"]} == {"classifier"}  # all of the encoder was found
    return model


def test_pretrain_then_finetune_gives_the_same_numbers(tmp_path, calls):
    model = tiny()
    pretraining = losses(model, tmp_path, labelled=False)
    model.save_pretrained(tmp_path / "plain")
    finetuning = losses(classifier(tmp_path / "plain"), tmp_path, labelled=True)
    assert not any(calls.values()) and pretraining[-1] < pretraining[0]

    model = hf.accelerate(tiny())
    assert torch.allclose(losses(model, tmp_path, labelled=False), pretraining, rtol=0, atol=1e-5)
    model.save_pretrained(tmp_path / "fast")
    assert calls["attention"] == STEPS * LAYERS
    model = hf.accelerate(classifier(tmp_path / "fast"))
    assert torch.allclose(losses(model, tmp_path, labelled=True), finetuning, rtol=0, atol=1e-4)
    assert calls["attention"] == STEPS * (LAYERS + ENCODER_LAYERS)


def test_a_run_of_ours_becomes_a_classifier_of_theirs(tmp_path, calls):
    ours = MaskedAutoencoderViT(**TINY.kwargs(), img_size=32)
    checkpoint, folder = tmp_path / "checkpoint-2.pth", tmp_path / "vit-mae"
    save_atomic({"model": ours.state_dict(), "mae_fast": {"config": layouts.describe(ours)}}, checkpoint)
    assert main(["convert", str(checkpoint), str(folder), "--to", "hf"]) == 0
    model = classifier(folder).eval()
    imgs = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        plain = model.vit(imgs).last_hidden_state
        fast = hf.accelerate(model).vit(imgs).last_hidden_state
        expected = load_pretrained(checkpoint).encode(imgs)
    assert calls["attention"] > 0
    assert torch.allclose(plain, expected, atol=1e-5) and torch.allclose(fast, expected, atol=1e-5)
    assert isinstance(ViTMAEForPreTraining.from_pretrained(folder), ViTMAEForPreTraining)
