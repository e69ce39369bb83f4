"""Conversion to and from the layout of Hugging Face."""

import json

import pytest
import torch

from mae_fast.cli import main
from mae_fast.files import layouts
from mae_fast.files.checkpoint import load_file, load_pretrained, read_checkpoint
from mae_fast.files.convert import convert
from tests.files.weights import same_bits


@pytest.mark.parametrize("weights", ["", "pytorch_model.bin"])
def test_huggingface_loads_exactly(tmp_path, model, checkpoint, transformers, weights):
    convert(checkpoint, tmp_path / "hf" / weights, "hf")
    theirs, info = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not any(info.values()), info
    assert theirs.config.layer_norm_eps == 1e-6 and theirs.config.norm_pix_loss
    assert same_bits(layouts.from_huggingface(theirs.state_dict()), {**model.state_dict()})
    imgs, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    loss, pred, mask = model(imgs, 0.75, noise)
    out = theirs(imgs, noise=noise)
    assert torch.allclose(out.loss, loss, rtol=1e-5) and torch.equal(out.mask, mask)
    assert torch.allclose(out.logits, pred, atol=1e-5 * pred.abs().max().item())
    statistics = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert statistics["image_mean"] == [0.5, 0.4, 0.3]


def test_huggingface_settings_of_theirs_survive(tmp_path, transformers):
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=8,
        decoder_hidden_size=32, decoder_num_hidden_layers=1, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, mask_ratio=0.6, initializer_range=0.05, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    transformers.ViTMAEForPreTraining(config).save_pretrained(tmp_path / "1")
    (tmp_path / "1" / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "crop_pct": 0.9}))
    assert convert(tmp_path / "1", tmp_path / "2", "hf") == []
    assert convert(tmp_path / "2", tmp_path / "3", "hf", img_size=64, encoder_only=True) == []
    first, second, third = (json.loads((tmp_path / n / "config.json").read_text()) for n in "123")
    assert second["mask_ratio"] == 0.6 and second["initializer_range"] == 0.05
    assert second | first == second and "image_mean" not in second and "crop_pct" not in second
    assert third == second | {"image_size": 64, "architectures": ["ViTMAEModel"]}
    assert "mask_ratio" not in read_checkpoint(tmp_path / "2")[1]
    assert convert(tmp_path / "2", tmp_path / "c.pth", "mae_fast") == []
    assert load_file(tmp_path / "c.pth")["mae_fast"].keys() == {"config"}


def test_huggingface_shards_are_one_checkpoint(tmp_path, model, checkpoint, transformers):
    convert(checkpoint, tmp_path / "hf", "hf")
    theirs = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "hf")
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 1
    assert same_bits({**load_pretrained(tmp_path / "shards").state_dict()}, {**model.state_dict()})


@pytest.mark.parametrize("encoder_only", [False, True])
def test_huggingface_encoder(tmp_path, model, checkpoint, transformers, encoder_only):
    convert(checkpoint, tmp_path / "hf", "hf", encoder_only=encoder_only)
    theirs, info = transformers.ViTMAEModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert encoder_only <= (not info["unexpected_keys"])
    imgs, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    latent, *_ = model.forward_encoder(imgs, 0.75, noise)
    assert torch.allclose(theirs(imgs, noise=noise).last_hidden_state, latent, atol=1e-5)


def test_interpolated_positions_are_huggingface_s(tmp_path, model, checkpoint, transformers):
    """Ours converted for 64 pixels computes what Hugging Face does when it interpolates on the way."""
    convert(checkpoint, tmp_path / "hf", "hf")
    theirs = transformers.ViTMAEModel.from_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "64.pth", "mae_fast", img_size=64)
    ours = load_pretrained(tmp_path / "64.pth")
    imgs, noise = torch.randn(2, 3, 64, 64), torch.rand(2, 64)
    wanted = theirs(imgs, noise=noise, interpolate_pos_encoding=True).last_hidden_state
    assert torch.allclose(ours.forward_encoder(imgs, 0.75, noise)[0], wanted, atol=1e-5)
    assert ours.decoder_pos_embed.shape == (1, 65, 32) and ours(imgs, 0.75, noise)[0].isfinite()
    convert(checkpoint, tmp_path / "32.pth", "mae_fast", img_size=32)
    assert same_bits(load_file(tmp_path / "32.pth")["model"], {**model.state_dict()})


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """huggingface_hub with an empty cache and no network. -> the cache."""
    constants = pytest.importorskip("huggingface_hub.constants")  # by its own name: the package loads it lazily
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_hub_name_without_a_network_is_one_sentence(offline, capsys):
    assert main(["convert", "facebook/vit-mae-base", "out.pth", "--to=official"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        "mae-fast convert: source: facebook/vit-mae-base: no such file here, and the Hugging Face hub"
    )
    assert error.count("\n") == 1
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        load_pretrained("runs/nowhere.pth")  # a file's name: the hub is not asked


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_hub_name_in_the_cache_loads(offline, checkpoint, model, weights):
    repo = offline / "models--owner--tiny-mae"
    convert(checkpoint, repo / "snapshots" / "0123abc" / weights, "hf")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    assert same_bits({**load_pretrained("owner/tiny-mae").state_dict()}, {**model.state_dict()})
