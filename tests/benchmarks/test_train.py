"""mae-fast bench train: sides run, a wrong one is refused, an absent one is listed, and the clone's shim is right."""

import sys
from functools import partial

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.harness import options, record, table
from benchmarks.parts import train
from benchmarks.parts.train import admit
from benchmarks.peers import builders as peers
from benchmarks.peers import official_shim
from benchmarks.peers.sides import OURS, Spec, specs
from mae_fast import config

TINY = config.Preset(
    patch_size=8, embed_dim=32, depth=1, num_heads=2, decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2
)


KWARGS = TINY.kwargs() | {"img_size": 32}


def measured(*flags):
    """{side and dtype: row}, and the table."""
    arguments = ["train", "--device", "cpu", "--quick", "--batch", "6", *flags]
    rows, _ = train.measure("tiny", TINY, 6, options.of(arguments))
    return {f"{row['side']} {row['dtype']}": row for row in rows}, table.screen(rows, train.COLUMNS)


def test_every_side_is_timed(monkeypatch, clone):
    pytest.importorskip("transformers")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # Inductor takes a minute
    rows, table = measured("--official", str(clone))
    sides = [name for name in rows if "alone" not in name]
    assert sides == [str(spec) for spec in specs(["bf16"], "cpu")]
    for name, row in rows.items():
        assert not row["note"] and len(row["seconds"]) == 2 and row["side"] in table, name
        assert 0 < row["q1_s"] <= row["median_s"] <= row["q3_s"]
        assert row["images_per_s"] == pytest.approx(6 / row["median_s"])
        ratios = [a / b for a, b in zip(row["seconds"], rows["ours compiled bf16"]["seconds"], strict=True)]
        assert (row["x_ours_low"], row["x_ours_high"]) == pytest.approx((min(ratios), max(ratios)))
    limit = sum(rows[f"{kind} products alone bf16"]["median_s"] for kind in ("linear", "attention"))
    for name in sides:
        assert rows[name]["of_limit"] == pytest.approx(limit / rows[name]["median_s"])
    assert rows["Hugging Face as shipped fp32"]["error_of_gradient"] < 1e-5
    assert (
        rows["official SDPA compiled bf16"]["error_of_gradient"] != rows["official compiled bf16"]["error_of_gradient"]
    )


def test_on_a_gpu_the_official_script_runs_float16():
    assert str(next(specs(["bf16"], "cuda"))) == "official as shipped fp16"


def test_absent_peers_are_listed_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", None)
    rows, table = measured("--sides", "as shipped")
    assert "not run: FileNotFoundError: give --official DIR" in rows["official as shipped fp32"]["note"]
    assert rows["Hugging Face as shipped fp32"]["note"].startswith("not run: ModuleNotFoundError")
    assert "give --official DIR" in table
    rows, _ = measured("--sides", "as shipped", "--official", str(tmp_path))
    assert "no models_mae.py" in rows["official as shipped fp32"]["note"]


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
    "loss": (lambda loss: loss + 0.01 * loss.detach(), "fails parity, not timed: loss: error 1.0e-02"),
    "gradient": (HalfGradient.apply, "fails parity, not timed"),
    "nan": (lambda loss: loss * float("nan"), "fails parity, not timed"),
    "error": (raises, "not run: RuntimeError: cannot"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_side_is_refused(monkeypatch, clone, what):
    spoil, message = WRONG[what]
    build = peers.official

    def spoiled(*arguments):
        peer = build(*arguments)
        loss = peer.loss
        peer.loss = lambda imgs: spoil(loss(imgs))
        return peer

    monkeypatch.setattr(peers, "official", spoiled)
    rows, table = measured("--official", str(clone), "--sides", "official as shipped")
    row = rows["official as shipped fp32"]
    assert row["note"].startswith(message) and "seconds" not in row and message in table


def test_a_wrong_kernel_of_ours_is_refused(monkeypatch, wrong_kernel):
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    with wrong_kernel("bias_gelu_backward"):
        rows, _ = measured("--sides", "ours")
    assert {row["note"].split(":")[0] for row in rows.values() if row["note"]} == {"fails parity, not timed"}
    assert rows["ours bf16"]["note"] and rows["ours compiled bf16"]["note"]


def test_no_time_left(monkeypatch, clone):
    monkeypatch.setattr(torch, "compile", lambda f, **_: f)
    rows, _ = measured("--seconds", "0", "--official", str(clone), "--sides", "ours,official")
    assert len(rows["ours compiled bf16"]["seconds"]) == 1
    assert rows["official bf16"]["note"] == "not run: TimeoutError: no time left"


def test_nothing_is_begun_that_takes_longer_than_is_left(monkeypatch):
    now, ran = [0.0], []
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])

    class Slow:
        dtype = torch.float32

        def __init__(self, name, seconds):
            self.name, self.seconds = name, seconds

        def forward_backward(self, imgs):
            ran.append(self.name)
            now[0] += self.seconds
            return torch.tensor(0.0)

        def clear(self):
            pass

        gradients = dict

    class Gate:
        imgs = errors = rows = staticmethod(lambda *_: [])

    sides = {
        Spec(name, "", "fp32", compiled=compiled): Slow(name, 40 if compiled else 2)
        for name, compiled in ((OURS, True), ("one", True), ("two", True), ("plain", False))
    }
    _, refused = admit(sides, Gate, until=100.0)
    assert ran == [OURS, "one", "plain"] and [spec.name for spec in refused] == ["two"]


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


def test_command_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(config.SIZES, "tiny", TINY)
    flags = ["--quick", "--batch", "2,3", "--rounds", "1", "--device", "cpu", "--sides", "as shipped"]
    assert main(["train", *flags, "--out", str(tmp_path)]) == 0
    written = record.read(tmp_path / "train_tiny.json")
    facts = {"cpu", "instruction sets", "threads", "torch", "packages", "commit", "clean", "command", "date", "ops"}
    assert facts <= set(written["facts"])
    assert [row["batch"] for row in written["rows"]] == [2] * 4 + [3] * 4
    assert (tmp_path / "train_tiny.csv").read_text().count("\n") == 1 + 8
    assert "tiny, batch 2" in capsys.readouterr().out
    for wrong in (["--presets", "medium"], ["--batch", "x"], ["--rounds", "0"], ["--dtypes", "int8"]):
        with pytest.raises(SystemExit):
            main(["train", "--device", "cpu", *wrong])
