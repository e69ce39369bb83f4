"""Checkpoints from one layout to another: every tensor the same to the last bit, and their owners load them exactly."""

import argparse
import itertools
import json
from functools import partial

import pytest
import torch

import mae_fast
from mae_fast.cli import main
from mae_fast.dropin import models_vit
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained, read_checkpoint
from mae_fast.files.convert import convert
from mae_fast.model import positions

TINY = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=2,
            decoder_num_heads=4, decoder_mlp_ratio=2.0, norm_pix_loss=True, mean=(0.5, 0.4, 0.3))  # fmt: skip


def bits(x):
    """The numbers as they lie in memory: NaN equals itself, 0 is not -0."""
    return x.contiguous().reshape(x.shape or 1).view(torch.uint8)


def same_bits(a, b):
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(bits(a[k]), bits(b[k])) for k in a)


def without_decoder(state):
    return {key: value for key, value in state.items() if not layouts.is_decoder_key(key)}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**TINY)


@pytest.fixture
def checkpoint(tmp_path, model):
    """A training run's file of ours."""
    path = tmp_path / "checkpoint-3.pth"
    save_atomic(
        {
            "model": model.state_dict(),
            "optimizer": {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 3,
            "scaler": {"scale": 2.0},
            "args": argparse.Namespace(norm_pix_loss=True),
            "mae_fast": {"config": layouts.describe(model), "position": {"epoch": 4}, "rng": [[torch.arange(3)]]},
        },
        path,
    )
    return path


# ---- there and back ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_chain_through_all_layouts_returns_every_bit(tmp_path, model, dtype):
    size = {torch.float32: torch.int32}.get(dtype, torch.int16)
    state = {  # any bits at all, NaN and denormals among them
        key: torch.randint(-(2**15), 2**15, p.shape).to(size).mul(31).view(dtype)
        for key, p in model.state_dict().items()
    }
    config = layouts.describe(model)
    save_atomic({"model": state, "mae_fast": {"config": config}}, tmp_path / "0.pth")
    steps = [("hf", "1"), ("official", "2.pth"), ("hf", "3/pytorch_model.bin"), ("official", "4.safetensors"),
             ("mae_fast", "5.safetensors"), ("hf", "6/model.safetensors"), ("mae_fast", "7.pth")]  # fmt: skip
    for (_, source), (to, out) in itertools.pairwise([("", "0.pth"), *steps]):
        assert convert(tmp_path / source, tmp_path / out, to) == []
        read, told, _ = read_checkpoint(tmp_path / out)
        assert same_bits(read, state), out
        assert told["img_size"] in (32, [32, 32]) and told | {"img_size": [32, 32]} == config, out

    steps = [("timm", "8.safetensors", "avg"), ("hf", "9", ""), ("timm", "10.safetensors", "token"),
             ("timm", "11.safetensors", "avg"), ("official", "12.pth", "")]  # fmt: skip
    for (_, source, _), (to, out, pool) in itertools.pairwise([("", "7.pth", ""), *steps]):
        convert(tmp_path / source, tmp_path / out, to, pool=pool or "token")
        assert same_bits(read_checkpoint(tmp_path / out)[0], without_decoder(state)), out
        assert read_checkpoint(tmp_path / out)[1]["num_heads"] == 4


def test_a_run_goes_on_from_official_and_back(tmp_path, checkpoint):
    before = load_file(checkpoint)
    assert convert(checkpoint, tmp_path / "official.pth", "official") == []
    assert convert(checkpoint, tmp_path / "ours.pth", "mae_fast") == []
    official, ours = load_file(tmp_path / "official.pth"), load_file(tmp_path / "ours.pth")
    for after in (official, ours):
        assert {"model", "optimizer", "epoch", "scaler", "args"} < after.keys()
        assert torch.equal(after["optimizer"]["state"][0]["exp_avg"], before["optimizer"]["state"][0]["exp_avg"])
        assert (after["epoch"], after["scaler"], after["args"]) == (3, {"scale": 2.0}, before["args"])
    assert ours["mae_fast"]["position"] == {"epoch": 4} and official["mae_fast"].keys() == {"config"}
    for options in ({"to": "hf"}, {"to": "official", "encoder_only": True}, {"to": "mae_fast", "img_size": 64}):
        (note,) = convert(checkpoint, tmp_path / str(options), **options)
        assert "optimizer" in note
    assert load_file(tmp_path / "{'to': 'mae_fast', 'img_size': 64}").keys() == {"model", "mae_fast"}


def test_eps_that_the_layout_does_not_tell_is_noted(tmp_path):
    model = mae_fast.MaskedAutoencoderViT(**TINY, norm_layer=partial(torch.nn.LayerNorm, eps=1e-12))
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, tmp_path / "c.pth")
    (note,) = convert(tmp_path / "c.pth", tmp_path / "official.pth", "official")
    assert note == "this layout does not tell the LayerNorm eps: 1e-12 here, 1e-06 in its models"
    assert load_pretrained(tmp_path / "official.pth").norm.eps == 1e-12  # by our record in the file


# ---- timm ----

TIMM_KEYS = (
    "cls_token pos_embed patch_embed.proj.weight patch_embed.proj.bias "
    "blocks.0.norm1.weight blocks.0.norm1.bias blocks.0.attn.qkv.weight blocks.0.attn.qkv.bias "
    "blocks.0.attn.proj.weight blocks.0.attn.proj.bias blocks.0.norm2.weight blocks.0.norm2.bias "
    "blocks.0.mlp.fc1.weight blocks.0.mlp.fc1.bias blocks.0.mlp.fc2.weight blocks.0.mlp.fc2.bias "
)  # of timm 1.0.31, vit_*_patch16_224 with num_classes=0, cut to one block


@pytest.mark.parametrize("pool, norm", [("token", "norm"), ("avg", "fc_norm")])
@pytest.mark.parametrize("file", ["vit.safetensors", "vit.pth"])
def test_timm_keys(tmp_path, pool, norm, file):
    from safetensors.torch import load_file as load_safetensors

    model = mae_fast.mae_vit_small_patch16(depth=1, decoder_depth=1)
    save_atomic({"model": model.state_dict()}, tmp_path / "c.pth")
    assert convert(tmp_path / "c.pth", tmp_path / file, "timm", pool=pool) == ["the decoder is left out: timm has none"]
    state = (load_safetensors if file.endswith("safetensors") else load_file)(tmp_path / file)
    assert state.keys() == {*TIMM_KEYS.split(), f"{norm}.weight", f"{norm}.bias"}
    assert torch.equal(state[f"{norm}.weight"], model.norm.weight) and state["pos_embed"].shape == (1, 197, 384)


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_timm_loads_and_agrees(tmp_path, pool):
    """PYTHONPATH=FOLDER, after pip install --no-deps --target FOLDER timm torchvision."""
    if not torch._C._dispatch_has_kernel("torchvision::nms"):  # another build of PyTorch than torchvision's own
        for op in ("nms", "qnms"):
            torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    timm = pytest.importorskip("timm", minversion="1.0")
    for name in ("base_patch16", "huge_patch14"):
        ours = mae_fast.__dict__[f"mae_vit_{name}"](depth=2, decoder_depth=1)
        save_atomic({"model": ours.state_dict()}, tmp_path / "c.pth")
        convert(tmp_path / "c.pth", tmp_path / "vit.pth", "timm", pool=pool, force=True)
        theirs = timm.create_model(f"vit_{name}_224", num_classes=0, global_pool=pool, depth=2).eval()
        theirs.load_state_dict(load_file(tmp_path / "vit.pth"), strict=True)
        imgs = torch.randn(2, 3, 224, 224)
        if pool == "token":
            wanted = ours.encode(imgs)[:, 0]
        else:
            norm, ours.norm = ours.norm, torch.nn.Identity()
            wanted = norm(ours.encode(imgs)[:, 1:].mean(1))
        assert torch.allclose(theirs(imgs), wanted, atol=1e-5)


# ---- classifiers ----


def classifier_file(path, pool, probe=False, **more):
    """A file of main_finetune.py, or main_linprobe.py, with the model that made it. -> its state."""
    torch.manual_seed(1)
    model = models_vit.vit_small_patch16(depth=1, img_size=32, num_classes=5, global_pool=pool == "avg")
    if probe:
        model.head = torch.nn.Sequential(torch.nn.BatchNorm1d(384, affine=False, eps=1e-6), model.head)
    args = argparse.Namespace(model="vit_small_patch16", nb_classes=5)
    state = {key: torch.randn_like(p) if p.is_floating_point() else p for key, p in model.state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 0.1}]}
    save_atomic({"model": state, "optimizer": optimizer, "epoch": 9, "scaler": {}, "args": args, **more}, path)
    return state


@pytest.mark.parametrize("probe", [False, True])
@pytest.mark.parametrize("pool", ["avg", "token"])
def test_a_classifier_stays_whole(tmp_path, pool, probe):
    from safetensors.torch import load_file as load_safetensors

    state = classifier_file(tmp_path / "c.pth", pool, probe)
    for source, to, out in (("c", "official", "1"), ("1", "mae_fast", "2"), ("2", "official", "3")):
        assert convert(tmp_path / f"{source}.pth", tmp_path / f"{out}.pth", to) == []
        content = load_file(tmp_path / f"{out}.pth")
        assert same_bits(content["model"], state), out
        assert torch.equal(content["optimizer"]["state"][0]["exp_avg"],
                           load_file(tmp_path / "c.pth")["optimizer"]["state"][0]["exp_avg"])  # fmt: skip
        assert content["epoch"] == 9 and content["mae_fast"].keys() == {"config"}
    (note,) = convert(tmp_path / "c.pth", tmp_path / "1.safetensors", "official")
    assert "optimizer" in note and same_bits(load_safetensors(tmp_path / "1.safetensors"), state)
    convert(tmp_path / "c.pth", tmp_path / "64.pth", "official", img_size=64)
    larger = load_file(tmp_path / "64.pth")["model"]
    assert larger["pos_embed"].shape == (1, 17, 384)
    assert same_bits(larger | {"pos_embed": state["pos_embed"]}, state)
    convert(tmp_path / "c.pth", tmp_path / "encoder.pth", "official", encoder_only=True)
    encoder = load_file(tmp_path / "encoder.pth")["model"]
    assert "norm.weight" in encoder and not any(key.startswith(("head.", "fc_norm.")) for key in encoder)


@pytest.mark.parametrize("pool, other", [("avg", "token"), ("token", "avg")])
def test_a_classifier_keeps_its_head_where_the_layout_has_one(tmp_path, pool, other):
    state = classifier_file(tmp_path / "c.pth", pool)
    convert(tmp_path / "c.pth", tmp_path / "vit.pth", "timm", pool=pool)
    assert same_bits(load_file(tmp_path / "vit.pth"), state)
    classifier_file(tmp_path / "probe.pth", pool, probe=True)
    left_out = "the head (head.weight, head.bias) is left out: "
    for source, options, wanted in (
        ("c.pth", {"to": "timm", "pool": other}, f"{left_out}it is of global_pool={pool}; keep it with --pool {pool}"),
        ("c.pth", {"to": "hf"}, f"{left_out}Hugging Face's ViTMAE has none"),
        ("probe.pth", {"to": "timm", "pool": pool}, "timm's is one Linear, and this one has a BatchNorm before it"),
    ):
        notes = convert(tmp_path / source, tmp_path / "out" / "model.safetensors", force=True, **options)
        assert any(wanted in note for note in notes), notes
        assert not any("head" in key for key in read_checkpoint(tmp_path / "out" / "model.safetensors")[0])


# ---- Hugging Face ----


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


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


def test_positions_of_another_grid():
    table = torch.cat([torch.full((1, 1, 4), 9.0), torch.arange(6.0)[None, :, None].expand(-1, -1, 4)], dim=1)
    wide = positions.resize(table.bfloat16(), (2, 3), (2, 6))
    assert wide.shape == (1, 13, 4) and wide.dtype == torch.bfloat16 and (wide[0, 0] == 9).all()
    assert (wide[0, 1:, 0].unflatten(0, (2, 6)).diff(dim=1) > 0).all()  # still row by row, left to right


# ---- what cannot be converted ----


@pytest.mark.parametrize("to", ["official", "hf", "timm", "mae_fast"])
def test_misfits_are_all_named_and_nothing_is_written(tmp_path, checkpoint, to):
    content = load_file(checkpoint)
    del content["model"]["blocks.1.norm2.bias"]
    content["model"]["head.weight"] = torch.zeros(7)
    content["model"]["decoder_pred.bias"] = torch.zeros(7)
    save_atomic(content, checkpoint)
    with pytest.raises(CheckpointError) as error:
        convert(checkpoint, tmp_path / "out", to)
    for words in ("missing: blocks.1.norm2.bias;", "unexpected: head.weight;", "decoder_pred.bias (7,) for (192,)"):
        assert words in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.name]


def test_a_classifier_or_another_network_is_named(tmp_path, transformers):
    config = transformers.ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96,
                                    image_size=32, patch_size=8)  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(CheckpointError, match=r"unexpected: .*classifier\.weight"):
        load_pretrained(tmp_path / "vit")
    config = transformers.BertConfig(hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="not a Masked Autoencoder"):
        load_pretrained(tmp_path / "bert")


def test_wrapped_keys_are_converted_unwrapped(tmp_path, model):
    wrapped = {f"_orig_mod.module.{key}": value for key, value in model.state_dict().items()}
    save_atomic({"model": wrapped, "mae_fast": {"config": layouts.describe(model)}}, tmp_path / "c.pth")
    assert convert(tmp_path / "c.pth", tmp_path / "official.pth", "official") == []
    assert same_bits(load_file(tmp_path / "official.pth")["model"], {**model.state_dict()})


def test_what_is_there_stays_unless_forced(tmp_path, checkpoint):
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("mine")
    for out, to in ((tmp_path / "hf", "hf"), (checkpoint, "official")):
        before = load_file(checkpoint)["mae_fast"].keys()
        with pytest.raises(ValueError, match=r"out: .*(config\.json|checkpoint-3\.pth) exists already; --force"):
            convert(checkpoint, out, to)
        assert load_file(checkpoint)["mae_fast"].keys() == before
        assert [p.name for p in (tmp_path / "hf").iterdir()] == ["config.json"]
    convert(checkpoint, tmp_path / "hf", "hf", force=True)
    assert load_pretrained(tmp_path / "hf").norm.eps == 1e-6


@pytest.mark.parametrize(
    "changes, options, message",
    [
        ({}, {"to": "onnx"}, "to: expected one of official"),
        ({}, {"to": "timm", "pool": "max"}, "pool: expected one of token, avg"),
        ({}, {"to": "timm", "img_size": 36}, "img_size: 36 is not a whole number of patches of 8"),
        ({}, {"to": "hf", "out": "c.safetensors"}, r"out: .*c\.safetensors is not a folder for from_pretrained"),
        ({"img_size": (32, 64)}, {"to": "hf"}, "img_size: Hugging Face's ViTMAE takes square images, not 32 x 64"),
    ],
)
def test_bad_calls_name_the_argument(tmp_path, changes, options, message):
    model = mae_fast.MaskedAutoencoderViT(**TINY | changes)
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        convert(tmp_path / "c.pth", **{**options, "out": tmp_path / options.get("out", "out")})
    assert [path.name for path in tmp_path.iterdir()] == ["c.pth"]


def test_command_line(tmp_path, model, capsys):
    save_atomic({"model": model.state_dict()}, tmp_path / "c.pth")
    command = ["convert", str(tmp_path / "c.pth"), str(tmp_path / "vit.safetensors"), "--to=timm", "--pool=avg"]
    assert main(command) == 1
    assert "does not tell num_heads; say" in capsys.readouterr().err
    assert main([*command, "--num_heads=4", "--decoder_num_heads=4", "--img_size=64"]) == 0
    said = capsys.readouterr().out
    assert "Note: the decoder is left out" in said and f"Wrote {tmp_path / 'vit.safetensors'}" in said
    with pytest.warns(UserWarning, match="encoder only"):
        assert load_pretrained(tmp_path / "vit.safetensors").patch_embed.img_size == (64, 64)


# ---- the Hugging Face hub ----


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
