"""benchmarks.step: the sides run, a wrong one is refused, an absent one is listed, and the clone's shim is right."""

import json
import sys
from functools import partial

import pytest
import torch

from benchmarks import official_shim, peers, step
from mae_fast import config

TINY = config.Preset(
    patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)
KWARGS = TINY.kwargs() | {"img_size": 32}

# Stands in for facebookresearch/mae: wants the same two classes of timm and the alias that NumPy dropped.
CLONE = {
    "util/pos_embed.py": """
import numpy as np

def zeros(n):
    return np.zeros(n, dtype=np.float)
""",
    "models_mae.py": """
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn
from util.pos_embed import zeros

from mae_fast.reference import MaskedAutoencoderViT as Naive

class MaskedAutoencoderViT(Naive):
    def __init__(self, img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, norm_layer, **rest):
        super().__init__(img_size, patch_size, 3, embed_dim, depth, num_heads, norm_layer=norm_layer, **rest)
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, qk_scale=None, norm_layer=norm_layer)
            for _ in range(depth)
        )
        self.cls_token.data += torch.from_numpy(zeros(embed_dim)).float()
""",
}


@pytest.fixture
def clone(tmp_path):
    for name, text in CLONE.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def only(monkeypatch):
    """Leaves the named sides."""

    def leave(*names):
        monkeypatch.setattr(step, "SIDES", [side for side in step.SIDES if side[0] in names])

    return leave


def measured(**arguments):
    rows, _ = step.measure(TINY, batch=6, rounds=2, device="cpu", img_size=32, **arguments)
    return {row["side"]: row for row in rows}, step.table(rows)


def test_every_side_is_timed(monkeypatch, clone):
    pytest.importorskip("transformers")
    names = [name for name, *_ in step.SIDES if name != "ours fp32 compiled"]  # asked for by --fp32
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # Inductor takes a minute
    rows, table = measured(official=clone)
    assert list(rows) == names + step.PRODUCTS
    for name, row in rows.items():
        assert not row["note"] and len(row["seconds"]) == 2 and name in table
        assert 0 < row["min s"] <= row["median s"] <= row["max s"]
        assert row["images/s"] == pytest.approx(6 / row["median s"])
        assert row["ours x"] == pytest.approx(row["median s"] / rows[step.OURS]["median s"])
    assert sum(rows[name]["products x"] for name in step.PRODUCTS) == pytest.approx(1)
    assert rows["Hugging Face fp32 eager"]["error of gradient"] < 1e-5


def test_absent_peers_are_listed_with_the_reason(only, monkeypatch, tmp_path):
    only("official fp32 eager", "Hugging Face fp32 eager")
    monkeypatch.setitem(sys.modules, "transformers", None)
    rows, table = measured()
    assert "not run: give --official DIR" in rows["official fp32 eager"]["note"]
    assert rows["Hugging Face fp32 eager"]["note"].startswith("not run: ModuleNotFoundError")
    assert "official fp32 eager: not run: give --official DIR" in table
    rows, _ = measured(official=tmp_path)
    assert "no models_mae.py" in rows["official fp32 eager"]["note"]


class HalfGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, loss):
        return loss.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * 0.99


def raises(loss):
    raise RuntimeError("cannot")


WRONG = {
    "loss": (lambda loss: loss + 0.01 * loss.detach(), "fails parity, not timed: error of loss 1.0e-02"),
    "gradient": (HalfGradient.apply, "fails parity, not timed"),
    "nan": (lambda loss: loss * float("nan"), "fails parity, not timed"),
    "error": (raises, "not run: RuntimeError: cannot"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_side_is_refused(only, monkeypatch, clone, what):
    spoil, message = WRONG[what]
    build = peers.official

    def spoiled(*arguments):
        peer = build(*arguments)
        loss = peer.loss
        peer.loss = lambda imgs: spoil(loss(imgs))
        return peer

    monkeypatch.setattr(peers, "official", spoiled)
    only("official fp32 eager")
    rows, table = measured(official=clone)
    row = rows["official fp32 eager"]
    assert row["note"].startswith(message) and not row["seconds"] and "images/s" not in row
    assert f"official fp32 eager: {message}" in table


def test_the_clone_is_loaded_without_a_trace(clone):
    before, path = set(sys.modules), list(sys.path)
    real = sys.modules["util"] = type(sys)("util")
    try:
        assert official_shim.load(clone).MaskedAutoencoderViT(**KWARGS, norm_layer=torch.nn.LayerNorm)
        assert sys.modules["util"] is real
    finally:
        del sys.modules["util"]
    assert {name for name in set(sys.modules) - before if not name.startswith(official_shim.PRIVATE)} == set()
    assert sys.path == path


def test_command_line(only, monkeypatch, tmp_path, capsys):
    only("official fp32 eager")
    monkeypatch.setitem(step.PRESETS, "tiny", TINY)
    file = tmp_path / "step.json"
    assert step.main(f"--presets tiny --batch 2 --rounds 1 --device cpu --json {file}".split()) == 0
    written = json.loads(file.read_text())
    facts = {"cpu", "instruction sets", "threads", "torch", "commit", "clean", "command", "date"}
    assert facts <= set(written["facts"])
    assert [row["side"] for row in written["results"][0]["rows"]] == ["official fp32 eager", *step.PRODUCTS]
    assert "tiny, batch 2" in capsys.readouterr().out
    for wrong in (["--presets", "medium"], ["--presets", "small,base", "--batch", "4"]):
        with pytest.raises(SystemExit):
            step.parse(wrong)
