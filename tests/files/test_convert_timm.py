"""Conversion to and from the layout of timm, and classifiers' heads."""

import argparse

import pytest
import torch

import mae_fast
from mae_fast.dropin import models_vit
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import load_file, read_checkpoint
from mae_fast.files.convert import convert
from tests.files.weights import same_bits

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
        ("c.pth", {"to": "timm", "pool": other}, f"{left_out}it is of global_pool={pool}; keep it with pool={pool}"),
        ("c.pth", {"to": "hf"}, f"{left_out}Hugging Face's ViTMAE has none"),
        ("probe.pth", {"to": "timm", "pool": pool}, "timm's is one Linear, and this one has a BatchNorm before it"),
    ):
        notes = convert(tmp_path / source, tmp_path / "out" / "model.safetensors", force=True, **options)
        assert any(wanted in note for note in notes), notes
        assert not any("head" in key for key in read_checkpoint(tmp_path / "out" / "model.safetensors")[0])
