"""Checkpoints of every origin load exactly, hostile and broken ones are refused by name, saving is atomic."""

import argparse
import re
from collections import OrderedDict

import pytest
import torch

import mae_fast
from mae_fast.dropin import models_vit
from mae_fast.files import layouts
from mae_fast.files.checkpoint import CheckpointError, load_pretrained, read_state
from mae_fast.train.optim import make_optimizer
from mae_fast.train.run_state import load_run

TINY = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4,
            decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**TINY)


def same_weights(a, b):
    assert a.state_dict().keys() == b.state_dict().keys()
    return all(torch.equal(a.state_dict()[k], b.state_dict()[k]) for k in a.state_dict())


def test_official_full(tmp_path, model):
    args = argparse.Namespace(model="mae_vit_base_patch16", norm_pix_loss=True, input_size=32, device="cuda")
    torch.save(
        {"model": model.state_dict(), "optimizer": {}, "epoch": 3, "scaler": {}, "args": args}, tmp_path / "c.pth"
    )
    loaded = load_pretrained(tmp_path / "c.pth", num_heads=4, decoder_num_heads=4)
    assert same_weights(loaded, model) and loaded.norm_pix_loss and loaded.missing_decoder_keys == ()
    assert loaded.patch_embed.img_size == (32, 32) and loaded.norm.eps == 1e-6


def test_official_widths_need_no_help(tmp_path):
    small = mae_fast.mae_vit_small_patch16(depth=1, decoder_depth=1, img_size=32)
    torch.save({"model": small.state_dict()}, tmp_path / "c.pth")
    loaded = load_pretrained(tmp_path / "c.pth")
    assert same_weights(loaded, small)
    assert loaded.blocks[0].attn.num_heads == 6 and loaded.decoder_blocks[0].attn.num_heads == 16


def test_unknown_width_asks_for_heads(tmp_path, model):
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: does not tell num_heads"):
        load_pretrained(tmp_path / "c.pth")


def test_official_encoder_only(tmp_path):
    small = mae_fast.mae_vit_small_patch16(depth=1, img_size=32)
    state = {k: v for k, v in small.state_dict().items() if not layouts.is_decoder_key(k)}
    torch.save({"model": state}, tmp_path / "encoder.pth")
    with pytest.warns(UserWarning, match=r"encoder only.*mask_token.*decoder_blocks\.7\.mlp\.fc2\.bias"):
        loaded = load_pretrained(tmp_path / "encoder.pth")
    imgs = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.encode(imgs), small.encode(imgs))
    for reconstruct in (loaded, loaded.training_loss):
        with pytest.raises(ValueError, match=r"encoder-only checkpoint and cannot reconstruct.*mask_token"):
            reconstruct(imgs)


@pytest.mark.parametrize("defect", ["missing", "unexpected", "wrong shape"])
def test_misfits_are_named_and_nothing_loads(tmp_path, model, defect):
    state = OrderedDict(model.state_dict())
    key = {"missing": "blocks.1.norm2.bias", "unexpected": "head.weight", "wrong shape": "decoder_pred.bias"}[defect]
    if defect == "missing":
        del state[key]
    else:
        state[key] = torch.zeros(7)
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=rf"c\.pth.*{defect}: {re.escape(key)}"):
        load_pretrained(tmp_path / "c.pth", num_heads=4, decoder_num_heads=4)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod.", "model.",
                                    "backbone.", "model.backbone._orig_mod."])  # fmt: skip
@pytest.mark.parametrize("wrapped", ["model", "state_dict", None])
def test_prefixes_of_wrappers_are_stripped(tmp_path, model, prefix, wrapped):
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({wrapped: state, "epoch": 3} if wrapped else state, tmp_path / "c.pth")
    assert same_weights(load_pretrained(tmp_path / "c.pth", num_heads=4, decoder_num_heads=4), model)


def test_keys_beside_the_wrapped_network_are_named(tmp_path, model):
    state = {f"model.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state | {"criterion.weight": torch.ones(3)}}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: .*nothing was loaded\. unexpected: criterion\.weight$"):
        load_pretrained(tmp_path / "c.pth", num_heads=4, decoder_num_heads=4)
    torch.save({"state_dict": state | {"cls_token": torch.ones(3)}}, tmp_path / "c.pth")  # two keys of one name
    with pytest.raises(CheckpointError, match="not a Masked Autoencoder: no patch_embed"):
        load_pretrained(tmp_path / "c.pth", num_heads=4, decoder_num_heads=4)


def training_run(model, path, prefix=""):
    """A file of the official script after one step of AdamW, its model wrapped. -> the optimizer's state."""
    optimizer = make_optimizer(model, "adamw", 1e-3, 0.05)
    sum(p.square().sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({"model": state, "optimizer": optimizer.state_dict(), "epoch": 3, "scaler": {}}, path)
    return optimizer.state_dict()


def resumed(model, path):
    """-> the optimizer and the position that load_run gives model."""
    optimizer = make_optimizer(model, "adamw", 1e-3, 0.05)
    scaler, cpu = torch.amp.GradScaler("cpu", enabled=False), torch.device("cpu")
    return optimizer, load_run(path, model, optimizer, scaler, [1, 1, 1, 1], cpu, 0)


def test_a_wrapped_run_is_resumed(tmp_path, model):
    moments = training_run(model, tmp_path / "c.pth", "module._orig_mod.")["state"]
    other = mae_fast.MaskedAutoencoderViT(**TINY)
    optimizer, position = resumed(other, tmp_path / "c.pth")
    assert same_weights(other, model) and position.epoch == 4
    assert torch.equal(optimizer.state_dict()["state"][0]["exp_avg"], moments[0]["exp_avg"])


@pytest.fixture(params=["avg", "token", "probe", "module.avg"])
def classifier(request, tmp_path):
    """A file of a finetuned or probed classifier. -> its path, its encoder's state with the official names."""
    torch.manual_seed(1)
    vit = models_vit.vit_small_patch16(depth=1, img_size=32, num_classes=5, global_pool="avg" in request.param)
    if request.param == "probe":
        vit.head = torch.nn.Sequential(torch.nn.BatchNorm1d(384, affine=False, eps=1e-6), vit.head)
    prefix, state = "module." * ("module" in request.param), vit.state_dict()
    args = argparse.Namespace(model="vit_small_patch16", nb_classes=5)
    content = {"model": {prefix + k: v for k, v in state.items()}, "optimizer": {}, "epoch": 9, "args": args}
    torch.save(content, tmp_path / "finetuned.pth")
    return tmp_path / "finetuned.pth", {
        k.replace("fc_norm", "norm"): v for k, v in state.items() if not k.startswith("head")
    }


def test_the_encoder_of_a_classifier_loads(classifier):
    path, encoder = classifier
    with pytest.warns(UserWarning) as said:
        model = load_pretrained(path)
    said = [str(warning.message) for warning in said]
    assert any(re.search(r"finetuned\.pth: a classifier; its head is left out: head\.", text) for text in said), said
    assert any(re.search(r"finetuned\.pth: encoder only.*mask_token", text) for text in said), said
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in encoder.items())
    with pytest.raises(ValueError, match=r"cannot reconstruct: the file has no decoder, as those of finetuned"):
        model(torch.randn(1, 3, 32, 32))


def test_a_classifier_s_run_is_not_resumed_but_started_from(classifier):
    path, encoder = classifier
    model = mae_fast.mae_vit_small_patch16(depth=1, img_size=32)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"a classifier \(head\..*no pretraining run to go on with.*init_from"):
        resumed(model, path)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with pytest.warns(UserWarning, match="its head is left out"):
        state = read_state(path)[0]
    assert state.keys() == encoder.keys() and all(torch.equal(state[key], encoder[key]) for key in state)


def test_a_head_that_is_not_whole_is_unexpected(tmp_path):
    vit = models_vit.vit_small_patch16(depth=1, img_size=32, num_classes=5)
    for change in ({"head.bias": torch.zeros(4)}, {"head.weight": torch.zeros(5, 48)}, {"head.scale": torch.zeros(5)}):
        torch.save({"model": vit.state_dict() | change}, tmp_path / "c.pth")
        with pytest.raises(CheckpointError, match=r"unexpected: head\.weight, head\.bias"):
            load_pretrained(tmp_path / "c.pth")
