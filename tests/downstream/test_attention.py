"""Attention maps: the probabilities are the model's own, and rollout is what its definition says."""

import numpy as np
import pytest
import torch
from PIL import Image

import mae_fast
from mae_fast.cli import main
from mae_fast.downstream.attention import attention_maps, probabilities


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(
        img_size=(16, 24), patch_size=8, embed_dim=32, depth=3, num_heads=4, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2,
    )  # fmt: skip


def test_the_probabilities_times_v_are_the_models_own_attention(model):
    x = model.encode(torch.randn(2, 3, 16, 24), layer=1)
    attn, normed = model.blocks[1].attn, model.blocks[1].norm1(x)
    v = attn.qkv(normed).unflatten(-1, (3, 4, -1))[:, :, 2]
    weights = probabilities(model.blocks[1], x)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 7))
    attended = torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)
    torch.testing.assert_close(attn.proj(attended), attn(normed), rtol=1e-5, atol=1e-6)


def test_maps_of_heads_and_rollout(model):
    imgs = torch.randint(0, 256, (2, 16, 24, 3), dtype=torch.uint8)
    maps = attention_maps(model, imgs, layer=2)
    assert maps.heads.shape == (2, 4, 2, 3) and maps.rollout.shape == (2, 2, 3)
    first, second = (probabilities(model.blocks[i], model.encode(imgs, layer=i)) for i in range(2))
    torch.testing.assert_close(maps.heads.flatten(2), second[:, :, 0, 1:])
    for image in range(2):  # token by token: what the class token gets from each patch, over two blocks
        halves = [(weights[image].mean(0) + torch.eye(7)) / 2 for weights in (first, second)]
        for patch in range(6):
            share = sum(halves[1][0, middle] * halves[0][middle, 1 + patch] for middle in range(7))
            torch.testing.assert_close(maps.rollout[image].flatten()[patch], share)
    torch.testing.assert_close(attention_maps(model, imgs).heads, attention_maps(model, imgs, layer=3).heads)
    with pytest.raises(ValueError, match="layer: expected 1 to 3"):
        attention_maps(model, imgs, layer=4)


def test_intermediate_layers_are_those_on_the_way_to_the_last(model):
    imgs = torch.randn(2, 3, 16, 24)
    x = model.encode(imgs, layer=0)
    for layer, block in enumerate(model.blocks):
        torch.testing.assert_close(model.encode(imgs, layer=layer), x, rtol=1e-5, atol=1e-6)
        x = block(x)
    torch.testing.assert_close(model.norm(model.encode(imgs, layer=3)), model.encode(imgs))
    with pytest.raises(ValueError, match="layer: expected 0 to 3"):
        model.encode(imgs, layer=-1)


def test_the_command_draws_a_row_a_picture(checkpoint, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for number in range(2):
        noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "pictures" / f"{number}.png")
    words = f"attention --checkpoint {checkpoint} --images {tmp_path}/pictures --layer 1 --device cpu".split()
    words += ["--out", f"{tmp_path}/out/maps.png"]
    assert main(words) == 0
    assert "2 pictures, 4 heads of block 1, and rollout" in capsys.readouterr().out
    with Image.open(tmp_path / "out" / "maps.png") as picture:
        assert picture.width > picture.height and len(picture.convert("RGB").getcolors(2**24)) > 100
    assert main([*words, "--layer=4"]) == 1
    assert "--layer: expected 1 to 3" in capsys.readouterr().err
