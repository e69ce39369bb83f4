"""mae_fast.fp8 on the CPU: the products against float64, a layer's gradients, and that a model with it trains alike."""

import json

import pytest
import torch
from PIL import Image

import mae_fast
from benchmarks import fp8_curve
from mae_fast import fp8
from mae_fast.optim import make_optimizer
from mae_fast.step import TrainingStep

SIZES = dict(
    img_size=32, patch_size=8, embed_dim=64, depth=3, num_heads=4,
    decoder_embed_dim=32, decoder_depth=1, decoder_num_heads=2, norm_pix_loss=True,
)  # fmt: skip
E4M3, E5M2 = 0.026, 0.051  # the mean relative error of rounding to three and to two bits after the leading one


def error(got, exact):
    return ((got.double() - exact.double()).norm() / exact.double().norm()).item()


@pytest.mark.parametrize("dtype, rounding", [(fp8.E4M3, E4M3), (fp8.E5M2, E5M2)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_quantise_keeps_the_largest_and_rounds_the_rest(dtype, rounding, size):
    x = torch.randn(64, 64) * size
    x8, scale = fp8.quantise(x, dtype)
    assert error(x8.double() * scale.double(), x) == pytest.approx(rounding, rel=0.1)
    assert (x8.float() * scale).abs().max() == pytest.approx(x.abs().max().item(), rel=1e-6)
    zeros, scale = fp8.quantise(torch.zeros(2, 2), dtype)
    assert not zeros.float().any() and scale.isfinite()


def test_a_layer_and_its_gradients():
    """Twenty-one rows, which the weight's gradient pads to thirty-two."""
    torch.manual_seed(0)
    plain, narrow = torch.nn.Linear(64, 48), torch.nn.Linear(64, 48)
    narrow.load_state_dict(plain.state_dict())
    narrow.__class__ = fp8.Float8Linear
    x, grad = torch.randn(3, 7, 64), torch.randn(3, 7, 48).bfloat16()
    results = []
    for layer in (plain.double(), narrow):
        leaf = x.to(layer.weight.dtype, copy=True).requires_grad_()
        out = layer(leaf)
        out.backward(grad.to(out.dtype))
        results.append([out.detach(), leaf.grad, layer.weight.grad, layer.bias.grad])
    both, mixed = (E4M3**2 + E4M3**2) ** 0.5, (E4M3**2 + E5M2**2) ** 0.5
    for exact, got, rounding in zip(*results, (both, mixed, mixed, 0.002), strict=True):
        assert got.shape == exact.shape and error(got, exact) < 1.25 * rounding
    x8, x_scale = fp8.quantise(x.flatten(0, 1), fp8.E4M3)
    w8, w_scale = fp8.quantise(narrow.weight.detach(), fp8.E4M3)
    exact = (x8.double() * x_scale) @ (w8.double() * w_scale).t()
    assert error(fp8._product(x8, x_scale, w8, w_scale), exact) < 0.004  # nothing but the result's rounding is added


def test_only_the_encoder_changes_and_it_trains_alike():
    imgs = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    curves = []
    for narrow in (False, True):
        torch.manual_seed(0)
        model = mae_fast.MaskedAutoencoderViT(**SIZES)
        keys = list(model.state_dict())
        if narrow:
            fp8.use_float8(model)
            layers = {name for name, layer in model.named_modules() if type(layer) is fp8.Float8Linear}
            assert len(layers) == 12 and all(name.startswith("blocks.") for name in layers)
            assert list(model.state_dict()) == keys
        step = TrainingStep(model, make_optimizer(model, "adamw", 1e-3, 0.05), dtype=torch.bfloat16)
        torch.manual_seed(1)
        curves.append(torch.stack([step(imgs, 1e-3) for _ in range(20)]))
    plain, narrow = curves
    assert not torch.equal(plain, narrow) and ((narrow - plain) / plain).abs().mean() < 1e-3 and plain[-1] < plain[0]


def test_both_curves_are_drawn(tmp_path):
    for i in range(4):
        Image.effect_noise((40, 40), 50 + i).convert("RGB").save(tmp_path / f"{i}.png")
    flags = f"--images {tmp_path} --img_size 32 --steps 3 --batch 4 --device cpu"
    assert (
        fp8_curve.main([*flags.split(), "--json", str(tmp_path / "c.json"), "--picture", str(tmp_path / "c.svg")]) == 0
    )
    written = json.loads((tmp_path / "c.json").read_text())
    plain, narrow = written["curves"]["bf16"], written["curves"]["fp8 encoder"]
    assert len(plain) == len(narrow) == 3 and plain != narrow and 0 < written["relative"] < 1e-2
    assert (tmp_path / "c.svg").stat().st_size > 1000


def test_what_it_cannot_take_is_named():
    model = mae_fast.MaskedAutoencoderViT(**SIZES | {"embed_dim": 72, "num_heads": 3})
    with pytest.raises(ValueError, match=r"fp8: blocks.0.attn.qkv is 72 x 216"):
        fp8.use_float8(model)


def test_where_it_may_run(monkeypatch):
    with pytest.raises(ValueError, match="needs a GPU of compute capability sm_89"):
        fp8.require_float8(torch.device("cpu"), torch.bfloat16, 1024)
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(ValueError, match="not NVIDIA A100"):
        fp8.require_float8(gpu, torch.bfloat16, 1024)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    with pytest.raises(ValueError, match="say --dtype bf16"):
        fp8.require_float8(gpu, torch.float16, 1024)
    with pytest.raises(ValueError, match="for the encoders of Large and Huge"):
        fp8.require_float8(gpu, torch.bfloat16, 768)
    fp8.require_float8(gpu, torch.bfloat16, 1024)
