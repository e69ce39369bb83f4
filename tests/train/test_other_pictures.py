"""X-ray-like pictures of 16 bits and tiles of 12 bands, from the command line to figures and other codebases."""

import logging

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from mae_fast.cli import main
from mae_fast.data import open_pictures
from mae_fast.downstream.reconstruct import reconstruct, stretched
from mae_fast.files.channels import with_channels
from mae_fast.files.checkpoint import load_file, load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.pixels import Pixels
from mae_fast.recipe import Pretrain
from mae_fast.train.journal import read_journal
from mae_fast.train.pictures import GAP
from tests.data.other_pictures import tile, write_tiles, write_xrays, xray


def train(folder, stats, out, *more):
    words = [
        "pretrain", "--config", stats, "--data_path", folder, "--model", "mae_vit_tiny_patch8", "--batch_size", "4",
        "--epochs", "2", "--warmup_epochs", "1", "--device", "cpu", "--output_dir", out, "--log_dir", "",
        "--num_workers", "0", *more,
    ]  # fmt: skip
    assert main(list(map(str, words))) == 0
    return out / "checkpoint-1.pth"


@pytest.fixture(scope="module")
def xrays(tmp_path_factory):
    """Sixteen bits of grey, not square."""
    root = tmp_path_factory.mktemp("xrays")
    write_xrays(root / "images")
    assert main(["data", "stats", str(root / "images"), "--out", str(root / "stats.yaml")]) == 0
    size = ("--input_size", "16", "24", "--patch_size", "4")
    return root, train(root / "images", root / "stats.yaml", root / "run", *size)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Twelve bands, packed, of which 4095 is the largest value."""
    root = tmp_path_factory.mktemp("tiles")
    assert main(["data", "pack", str(write_tiles(root / "images")), str(root / "shards")]) == 0
    words = ["data", "stats", str(root / "shards"), "--out", str(root / "stats.yaml"), "--value_range", "0", "4095"]
    assert main(words) == 0
    return root, train(root / "shards", root / "stats.yaml", root / "run", "--input_size", "32")


def test_stats_are_a_config_of_the_run(tiles):
    settings = yaml.safe_load((tiles[0] / "stats.yaml").read_text())
    values = np.concatenate([tile(n).reshape(12, -1) for n in range(12)], axis=1) / 4095
    assert settings["in_chans"] == 12 and settings["value_range"] == [0, 4095]
    np.testing.assert_allclose(settings["mean"], values.mean(1), rtol=1e-4)
    np.testing.assert_allclose(settings["std"], values.std(1), rtol=1e-4)
    assert np.isfinite([loss for loss in load_file(tiles[1])["mae_fast"]["position"]["losses"]]).all()


@pytest.mark.parametrize("which, channels, size, patch", [("xrays", 1, (16, 24), 4), ("tiles", 12, (32, 32), 8)])
def test_a_checkpoint_remembers_its_pictures_in_every_layout(which, channels, size, patch, request, tmp_path):
    root, checkpoint = request.getfixturevalue(which)
    settings = yaml.safe_load((root / "stats.yaml").read_text())
    as_read = {name: settings[name] for name in ("value_range", "mean", "std")}
    expected = Pixels(channels, "uint16", *map(tuple, as_read.values()))
    made = {"mae_fast": tmp_path / "a.pth", "official": tmp_path / "b.safetensors"} | (
        {"hf": tmp_path / "hf"} if which == "tiles" else {}
    )
    for layout, out in made.items():
        assert main(["convert", str(checkpoint), str(out), "--to", layout]) == 0
    for path in (checkpoint, *made.values()):
        model = load_pretrained(path)
        assert model.pixels == expected, path
        assert (model.patch_embed.img_size, model.patch_embed.patch_size[0]) == (size, patch)
    imgs = open_pictures(sorted((root / "images").iterdir())[:2], model.pixels, size)
    whole = load_pretrained(checkpoint)
    with torch.no_grad():
        assert torch.equal(model.encode(imgs), whole.encode(imgs))


def test_a_figure_shows_the_chosen_bands(tiles, xrays, tmp_path):
    for (root, checkpoint), bands in ((tiles, ["--bands", "3", "2", "1"]), (tiles, ["--bands", "12"]), (xrays, [])):
        out = tmp_path / "figure.png"
        words = ["reconstruct", "--checkpoint", checkpoint, "--images", root / "images", "--out", out, "--limit", "2"]
        assert main([*map(str, words), *bands]) == 0
        assert Image.open(out).width > 500
    words[2] = tiles[1]
    assert main([*map(str, words), "--bands", "1", "13", "2"]) == 1


def test_a_figure_is_stretched_over_the_range_or_the_percentiles(tiles):
    model = load_pretrained(tiles[1])
    imgs = open_pictures([tiles[0] / "images" / "00.tif"], model.pixels, (32, 32))
    result = reconstruct(model, imgs, noise=torch.rand(1, 16))
    values = (imgs[0] * torch.tensor(model.std)[:, None, None] + torch.tensor(model.mean)[:, None, None]).permute(
        1, 2, 0
    )
    torch.testing.assert_close(result.original[0], values)
    plain, wide = stretched(result, [3, 2, 1]), stretched(result, [3, 2, 1], percentiles=True)
    torch.testing.assert_close(plain.original[0], values[..., [2, 1, 0]].clamp(0, 1))
    low, high = (values[..., 2].quantile(share) for share in (0.02, 0.98))
    torch.testing.assert_close(wide.original[0, ..., 0], ((values[..., 2] - low) / (high - low)).clamp(0, 1))
    assert (wide.masked[wide.removed == 1] == 0.5).all() and wide.masked.shape == (1, 32, 32, 3)
    assert stretched(result).original.shape[-1] == 3
    with pytest.raises(ValueError, match="bands: expected one or three numbers from 1 to 12, got 0 1 2"):
        stretched(result, [0, 1, 2])


def test_a_model_of_three_channels_starts_others(tiles, tmp_path, caplog):
    torch.manual_seed(0)
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}
    size |= {"decoder_embed_dim": 32, "decoder_depth": 1, "decoder_num_heads": 2}
    even = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    colour, grey = MaskedAutoencoderViT(**size, **even), MaskedAutoencoderViT(**size, in_chans=1)
    with caplog.at_level(logging.INFO, "mae_fast"):
        grey.load_state_dict(with_channels(colour.state_dict(), 1, "start.pth"))
    assert "start.pth: weights of 3 channels for 1: summed" in caplog.text
    imgs, noise = torch.randn(2, 1, 32, 32), torch.rand(2, 16)
    with torch.no_grad():
        torch.testing.assert_close(grey.encode(imgs), colour.encode(imgs.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-5)
        three, one = (colour(imgs.expand(-1, 3, -1, -1), noise=noise)[1], grey(imgs, noise=noise)[1])
        torch.testing.assert_close(one, three.unflatten(-1, (64, 3)).mean(-1), rtol=1e-4, atol=1e-5)
    weight = colour.patch_embed.proj.weight
    twelve = with_channels(colour.state_dict(), 12, "start.pth")
    torch.testing.assert_close(twelve["patch_embed.proj.weight"], weight.repeat(1, 4, 1, 1) / 4)
    assert twelve["decoder_pred.weight"].shape == (64 * 12, 32)
    assert with_channels(twelve, 12, "") is twelve


def test_init_from_takes_other_channels(tiles, xrays, photos, tmp_path, capsys):
    start = tmp_path / "start.pth"
    torch.manual_seed(1)
    model = MaskedAutoencoderViT(
        img_size=32,
        patch_size=8,
        embed_dim=96,
        depth=3,
        num_heads=3,
        decoder_embed_dim=64,
        decoder_depth=2,
        decoder_num_heads=2,
    )
    torch.save({"model": model.state_dict()}, start)
    root = tiles[0]
    out = train(root / "shards", root / "stats.yaml", tmp_path / "run", "--input_size", "32", "--init_from", start)
    assert "weights of 3 channels for 12: repeated, in the embedding times 3/12" in capsys.readouterr().out
    assert load_pretrained(out).in_chans == 12


def test_settings_of_pictures_that_cannot_be_are_refused():
    for settings, message in [
        ({"mean": (0.5, 0.5)}, r"mean: expected 3 numbers \(in_chans\), got 2"),
        ({"std": 0.5}, r"std: expected 3 numbers \(in_chans\), got 1"),
        ({"in_chans": 1, "std": 0.0}, "std: expected more than 0"),
        ({"input_size": (32, 32, 32)}, "input_size: expected 2 numbers, got 3"),
        ({"value_range": (1.0,)}, "value_range: expected 2 numbers, got 1"),
        ({"value_range": (5.0, 1.0)}, "value_range: expected the lower number first"),
        ({"in_chans": 0}, "in_chans: expected at least 1"),
        ({"patch_size": 0}, "patch_size: expected at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            Pretrain.of(**settings)
    assert Pretrain.of(in_chans=1, mean=0.4, std=0.2, input_size=(32, 48)).data.size == (32, 48)


def test_grey_of_sixteen_bits_in_a_run_of_rgb_says_what_to_do(xrays, capsys):
    words = ["pretrain", "--data_path", xrays[0] / "images", "--batch_size", "4", "--device", "cpu", "--output_dir", ""]
    size = ["--model", "mae_vit_tiny_patch8", "--input_size", "32", "--log_dir", ""]
    assert main([*map(str, words), *size]) == 1
    assert "give in_chans and value_range, as mae-fast data stats writes them" in capsys.readouterr().err
    assert xray(0).max() > 255


def test_a_classifier_reads_the_pictures_of_its_encoder(tiles, tmp_path, capsys):
    for split in ("train", "val"):
        for label, name in enumerate(("even", "odd")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(label, 8, 2):
                file = tiles[0] / "images" / f"{number:02d}.tif"
                (tmp_path / "data" / split / name / file.name).symlink_to(file)
    out = tmp_path / "run"
    words = [
        "finetune", "--finetune", tiles[1], "--data_path", tmp_path / "data", "--batch_size", "4", "--epochs", "1",
        "--warmup_epochs", "0", "--input_size", "32", "--device", "cpu", "--num_workers", "0", "--output_dir", out,
        "--log_dir", "", "--mixup", "0.8",
    ]  # fmt: skip
    assert main(list(map(str, words))) == 0
    assert "12 channels of uint16, values 0 to 4095, so with no RandAugment" in capsys.readouterr().out
    again = ["finetune", "--eval", "--resume", out / "checkpoint-0.pth", *words[3:]]
    assert main(list(map(str, again))) == 0
    assert "of 8 images" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["xrays", "tiles"])
def test_a_run_keeps_reconstructions_of_them(kind, request):
    run = request.getfixturevalue(kind)[1].parent
    assert not [event for event in read_journal(run) if event["event"] == "fault"]
    height, width = {"xrays": (16, 24), "tiles": (32, 32)}[kind]
    for name in ("original", "masked", "epoch-1"):
        with Image.open(run / "reconstructions" / f"{name}.png") as strip:
            assert strip.size == (4 * width + 3 * GAP, height)
            assert np.ptp(np.asarray(strip)[:, :width]) > 100  # stretched: neither black nor one grey
