"""Checkpoints from one layout to another: every tensor the same to the last bit, and their owners load them exactly."""

import itertools
from functools import partial

import pytest
import torch

import mae_fast
from mae_fast.cli import main
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained, read_checkpoint
from mae_fast.files.convert import convert
from mae_fast.model import positions
from tests.files.weights import TINY, same_bits, without_decoder


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


def test_positions_of_another_grid():
    table = torch.cat([torch.full((1, 1, 4), 9.0), torch.arange(6.0)[None, :, None].expand(-1, -1, 4)], dim=1)
    wide = positions.resize(table.bfloat16(), (2, 3), (2, 6))
    assert wide.shape == (1, 13, 4) and wide.dtype == torch.bfloat16 and (wide[0, 0] == 9).all()
    assert (wide[0, 1:, 0].unflatten(0, (2, 6)).diff(dim=1) > 0).all()  # still row by row, left to right


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
        with pytest.raises(ValueError, match=r"out: .*(config\.json|checkpoint-3\.pth) exists already; force"):
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


def test_a_loss_that_is_not_theirs_is_kept_beside_hugging_faces_settings(tmp_path, model):
    model.loss = "l1"
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, tmp_path / "c.pth")
    convert(tmp_path / "c.pth", tmp_path / "hf", "hf")
    assert load_pretrained(tmp_path / "hf").loss == "l1"
