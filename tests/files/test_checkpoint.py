"""Checkpoints of every origin load exactly, hostile and broken ones are refused by name, saving is atomic."""

import argparse
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import time
from collections import OrderedDict
from contextlib import suppress

import pytest
import torch

import mae_fast
from mae_fast.dropin import models_vit
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained, read_state
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


# ---- official ----


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


# ---- classifiers: main_finetune.py, main_linprobe.py ----


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


# ---- Hugging Face ----


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


# ---- safety ----


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/mae_fast_was_here",)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path):
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused.*(posix|os)\.system"):
        load_pretrained(tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"raw\.pth"):
        load_file(tmp_path / "raw.pth")
    assert not os.path.exists("/tmp/mae_fast_was_here")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 a broken archive"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        load_pretrained(tmp_path / "c.pth")


def test_truncated_and_foreign_files_are_named(tmp_path, model):
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth")
    data = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("cut", "foreign", "list"):
        with pytest.raises(CheckpointError, match=rf"{name}\.pth"):
            load_pretrained(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_pretrained(tmp_path / "nowhere.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_named_whatever_torch_raises(tmp_path, model, zipped):
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    data, draw = (tmp_path / "c.pth").read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(data[: draw.choice([len(data), draw.randrange(len(data))])])
        for _ in range(draw.randrange(30)):
            damaged[draw.randrange(min(len(damaged), 4000))] = draw.randrange(256)
        (tmp_path / "bad.pth").write_bytes(damaged)
        with suppress(CheckpointError):  # or only numbers changed
            load_file(tmp_path / "bad.pth")


def test_settings_that_are_no_dict_are_named(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a dict"):
        load_pretrained(tmp_path)


def test_keys_that_are_no_text_are_foreign(tmp_path):
    torch.save({1: torch.zeros(2)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: not a Masked Autoencoder"):
        load_pretrained(tmp_path / "c.pth")


# ---- saving ----


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    save_atomic({"a": 1}, tmp_path / "c.pth")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"a": lambda: 0}, tmp_path / "c.pth")
    assert load_file(tmp_path / "c.pth") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_kill_during_save_leaves_a_whole_file(tmp_path):
    code = (
        "import sys, torch; from mae_fast.atomic import save_atomic\n"
        "for i in range(10**9):\n"
        "    save_atomic({'i': i, 'x': torch.full((500_000,), float(i))}, sys.argv[1])\n"
        "    print(i, flush=True)\n"
    )
    path = tmp_path / "c.pth"
    for attempt in range(6):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        content = load_file(path)
        assert (content["x"] == content["i"]).all(), attempt
