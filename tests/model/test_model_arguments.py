"""The model's arguments: presets, bad calls, odd norms, wrapped layers."""

import warnings

import pytest
import torch
from torch import nn

import mae_fast
from mae_fast import config
from mae_fast.files import layouts
from tests.model.pairs import TINY, both, error, images


@pytest.mark.parametrize("name, millions", [("small", 22), ("base", 86), ("large", 303), ("huge", 631)])
def test_presets_have_the_published_sizes(name, millions):
    constructor = next(n for n in config.PRESETS if name in n)
    with torch.device("meta"), warnings.catch_warnings():
        model = getattr(mae_fast, constructor)(norm_pix_loss=True)
        assert getattr(mae_fast, f"{constructor}_dec512d8b")().norm_pix_loss is False
    assert all(p.is_meta for p in model.parameters())  # all of it on the device that was asked for
    encoder = [p for n, p in model.named_parameters() if not layouts.is_decoder_key(n)]
    assert sum(p.numel() for p in encoder) / 1e6 == pytest.approx(millions, rel=0.02)
    assert len(model.decoder_blocks) == 8 and model.decoder_embed.out_features == 512
    assert model.decoder_blocks[0].attn.num_heads == 16 and model.norm.eps == 1e-6


BAD_CALLS = {
    "imgs": lambda m: m(torch.randn(2, 3, 32, 40)),
    "imgs ": lambda m: m(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
    "imgs  ": lambda m: m(torch.zeros(2, 3, 32, 32, dtype=torch.int64)),
    "imgs   ": lambda m: m.patchify(torch.randn(3, 32, 32)),
    "noise": lambda m: m(torch.randn(2, 3, 32, 32), 0.75, torch.rand(2, 9)),
    "mask_ratio": lambda m: m(torch.randn(2, 3, 32, 32), 1.5),
    "mask_ratio ": lambda m: m(torch.randn(2, 3, 32, 32), 0.0),
    "mask_ratio  ": lambda m: m.training_loss(torch.randn(2, 3, 32, 32), 1e-18),
    "mask": lambda m: m.forward_loss(torch.randn(2, 3, 32, 32), torch.randn(2, 16, 192), torch.zeros(2, 16)),
    "x": lambda m: m.unpatchify(torch.randn(2, 9, 192)),
}


@pytest.mark.parametrize("argument", BAD_CALLS)
def test_bad_calls_name_the_argument(argument):
    fast, _ = both()
    with pytest.raises(ValueError, match=rf"^{argument.strip()}\b"):
        BAD_CALLS[argument](fast)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("img_size", 33),
        ("img_size", (32, 36)),
        ("embed_dim", 50),
        ("decoder_embed_dim", 30),
        ("mean", (0.5, 0.5)),
        ("embed_dim", 0),
        ("in_chans", 0),
    ],
)
def test_bad_sizes_name_the_argument(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument}\b"):
        mae_fast.MaskedAutoencoderViT(**TINY | {argument: value})
    with pytest.raises(ValueError, match=r"^embed_dim\b"):
        mae_fast.MaskedAutoencoderViT(**TINY | {"num_heads": 0})


def test_nothing_masked_still_encodes():
    fast, naive = both()
    imgs, noise = images(fast), torch.rand(3, 16)
    latent, mask, _ = fast.forward_encoder(imgs, 0.0, noise)
    assert latent.shape == (3, 17, 48) and mask.sum() == 0
    assert error(latent, naive.forward_encoder(imgs, 0.0, noise)[0]) < 1e-5


def test_custom_norm_layer_is_used():
    fast = mae_fast.MaskedAutoencoderViT(**TINY, norm_layer=nn.RMSNorm)
    assert isinstance(fast.decoder_blocks[1].norm2, nn.RMSNorm)


def test_layers_that_are_wrapped_or_hooked_run_themselves():
    """The block hands the parameters of plain layers to fused ops, past the layers: not of those that do more."""
    fast, naive = both()
    calls = []

    class Adapted(nn.Linear):
        def forward(self, x):
            calls.append("adapted")
            return super().forward(x)

    block = fast.blocks[0]
    block.norm1.register_forward_hook(lambda *_: calls.append("norm1"))
    block.norm2.register_forward_pre_hook(lambda *_: calls.append("norm2"))
    adapted = Adapted(48, 192)
    adapted.load_state_dict(block.mlp.fc1.state_dict())
    block.mlp.fc1 = adapted
    imgs, noise = images(fast), torch.rand(3, 16)
    assert error(fast(imgs, 0.75, noise)[0], naive(imgs, 0.75, noise)[0]) < 1e-5
    assert calls == ["norm1", "norm2", "adapted"]


@pytest.mark.parametrize("name", ["fused", "sdpa", "reference"])
def test_every_attention_gives_the_same_numbers(name):
    _, naive = both()
    fast = mae_fast.MaskedAutoencoderViT(**TINY, attention=name)
    fast.load_state_dict(naive.state_dict())
    imgs, noise = images(fast), torch.rand(3, 16)
    assert error(fast(imgs, 0.75, noise)[1], naive(imgs, 0.75, noise)[1]) < 1e-5


def test_an_unknown_attention_is_named():
    with pytest.raises(ValueError, match="attention: expected one of auto, fused, sdpa"):
        mae_fast.MaskedAutoencoderViT(**TINY, attention="flash")


@pytest.mark.parametrize("imgs", [torch.zeros(0, 3, 32, 32), torch.zeros(0, 32, 32, 3, dtype=torch.uint8)])
@pytest.mark.parametrize("call", ["forward", "training_loss"])
def test_a_batch_of_no_images_is_refused_by_name(imgs, call):
    model = mae_fast.MaskedAutoencoderViT(**TINY)
    with pytest.raises(ValueError, match="imgs: expected at least one image"):
        getattr(model, call)(imgs)


def test_another_mask_is_another_function():
    """Squares of two by two patches, kept or removed as one."""

    def squares(batch, grid, device):
        coarse = torch.rand(batch, 1, grid[0] // 2, grid[1] // 2, device=device)
        return torch.nn.functional.interpolate(coarse, grid).flatten(1)

    size = dict(img_size=32, patch_size=4, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                decoder_num_heads=2)  # fmt: skip
    model = mae_fast.MaskedAutoencoderViT(**size, draw_noise=squares)
    _, mask, _ = model.forward_encoder(torch.randn(3, 3, 32, 32), 0.75)
    whole = mask.view(3, 4, 2, 4, 2).transpose(2, 3).flatten(3)
    assert mask.mean() == 0.75 and torch.equal(whole.amin(-1), whole.amax(-1))
    assert model.training_loss(torch.randn(3, 3, 32, 32)).isfinite()
