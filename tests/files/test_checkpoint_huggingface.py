"""Checkpoints of Hugging Face load exactly, in each of its spellings."""

import json

import pytest
import torch

import mae_fast
from mae_fast.files import layouts
from mae_fast.files.checkpoint import CheckpointError, load_pretrained
from tests.files.test_checkpoint import TINY, same_weights


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**TINY)


def as_first_spelling(key):
    """decoder.decoder_encoder.layer.N -> decoder.decoder_layers.N, what Hugging Face 4 wrote."""
    return key.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


@pytest.fixture(scope="module")
def huggingface():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTMAEConfig(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=8,
        decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=4,
        decoder_intermediate_size=64, layer_norm_eps=1e-3, norm_pix_loss=True,
    )  # fmt: skip
    model = transformers.ViTMAEForPreTraining(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


@pytest.mark.parametrize("spelling", ["saved", "first", "in memory"])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_huggingface_directory(tmp_path, huggingface, spelling, file):
    from safetensors.torch import load_file as load_safetensors
    from safetensors.torch import save_file

    huggingface.save_pretrained(tmp_path)
    state = load_safetensors(tmp_path / "model.safetensors")
    if spelling == "first":
        state = {as_first_spelling(key): value for key, value in state.items()}
    elif spelling == "in memory":
        state = huggingface.state_dict()
    (tmp_path / "model.safetensors").unlink()
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)

    ours = load_pretrained(tmp_path)
    assert ours.norm.eps == 1e-3 and ours.norm_pix_loss
    imgs, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    theirs = huggingface(imgs, noise=noise)
    loss, pred, mask = ours(imgs, 0.75, noise)
    assert torch.allclose(loss, theirs.loss, rtol=1e-5)
    assert torch.allclose(pred, theirs.logits, rtol=0, atol=1e-5 * theirs.logits.abs().max().item())
    assert torch.equal(mask, theirs.mask)


def test_huggingface_gradients_and_training_curve(tmp_path, huggingface):
    huggingface.save_pretrained(tmp_path)
    ours = load_pretrained(tmp_path)
    theirs = type(huggingface).from_pretrained(tmp_path)
    optimizers = [torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], lr=1e-3) for m in (ours, theirs)]
    torch.manual_seed(0)
    for step in range(40):
        imgs, noise = torch.randn(4, 3, 32, 32), torch.rand(4, 16)
        a, b = ours.training_loss(imgs, 0.75, noise), theirs(imgs, noise=noise).loss
        assert a.item() == pytest.approx(b.item(), rel=1e-3), step
        a.backward()
        b.backward()
        if step == 0:
            grads = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
            qkv = layouts.from_huggingface(grads)["blocks.0.attn.qkv.weight"]
            assert torch.allclose(ours.blocks[0].attn.qkv.weight.grad, qkv, atol=1e-5 * qkv.abs().max())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


def test_huggingface_keys_behind_a_wrapper(tmp_path, huggingface):
    from safetensors.torch import load_file as load_safetensors

    huggingface.save_pretrained(tmp_path)
    plain, state = load_pretrained(tmp_path), load_safetensors(tmp_path / "model.safetensors")
    torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    assert same_weights(load_pretrained(tmp_path), plain)


def test_huggingface_encoder_only(tmp_path, huggingface):
    huggingface.vit.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="encoder only"):
        ours = load_pretrained(tmp_path)
    imgs, noise = torch.randn(3, 3, 32, 32), torch.rand(3, 16)
    theirs = huggingface.vit(imgs, noise=noise).last_hidden_state
    assert torch.allclose(ours.forward_encoder(imgs, 0.75, noise)[0], theirs, atol=1e-5 * theirs.abs().max().item())


def test_huggingface_defaults_when_config_is_silent(tmp_path):
    assert layouts.huggingface_config({})["norm_eps"] == 1e-12
    with pytest.raises(ValueError, match="hidden_act='relu'"):
        layouts.huggingface_config({"hidden_act": "relu"})
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=r"expected config\.json and model\.safetensors"):
        load_pretrained(tmp_path)
