"""Pictures that are not 8-bit RGB: commands read them as the checkpoint says, with no flag for it."""

import numpy as np
import pytest
import torch
from PIL import Image

import mae_fast
from mae_fast.cli import main
from mae_fast.data import make_eval_loader, open_source
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic

BANDS, RANGE = 4, (0.0, 10_000.0)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """Tiles of four bands, uint16 arrays, of two classes."""
    folder = tmp_path_factory.mktemp("tiles")
    for split, count in (("train", 4), ("val", 2)):
        for label in range(2):
            (folder / split / f"class{label}").mkdir(parents=True)
            for number in range(count):
                values = np.random.default_rng((label, number)).integers(0, 10_000, (BANDS, 32, 32), np.uint16)
                values[label] //= 2
                np.save(folder / split / f"class{label}" / f"{number}.npy", values)
    return folder


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(
        img_size=32, patch_size=8, in_chans=BANDS, embed_dim=32, depth=2, num_heads=4, decoder_embed_dim=32,
        decoder_depth=1, decoder_num_heads=2, pixel_type="uint16", value_range=RANGE,
    )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiles.pth"
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, path)
    return path


def test_features_are_of_the_values_in_the_files(model, checkpoint, tiles, tmp_path):
    words = f"features --checkpoint {checkpoint} --data_path {tiles}/train --out {tmp_path}/f.npz --pool mean"
    assert main(f"{words} --device cpu --dtype fp32 --num_workers 0".split()) == 0
    with np.load(tmp_path / "f.npz") as file:
        assert file["names"].tolist() == [f"class{label}/{number}.npy" for label in range(2) for number in range(4)]
        features = file["features"]
    whole = torch.cat([imgs for imgs, _ in make_eval_loader(
        open_source(tiles), 8, 32, pixels=model.pixels, num_workers=0).epoch(0)])  # fmt: skip
    values = np.load(tiles / "train" / "class0" / "1.npy").astype(np.float32)
    assert whole.dtype == torch.float32 and whole.shape == (8, BANDS, 32, 32)
    assert whole[1].mean() == pytest.approx((values.mean() / RANGE[1] - 0.5) / 0.5, abs=0.05)
    with torch.inference_mode():
        expected = model.encode(whole)[:, 1:].mean(1)
    np.testing.assert_allclose(features, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_knn_attention_and_error_maps(checkpoint, tiles, tmp_path, capsys):
    shared = f"--checkpoint {checkpoint} --device cpu"
    assert main(f"knn {shared} --data_path {tiles} --num_workers 0".split()) == 0
    assert "8 training and 4 validation pictures of 2 classes" in capsys.readouterr().out
    assert main(f"attention {shared} --images {tiles}/val --out {tmp_path}/maps.png".split()) == 0
    assert main(f"reconstruct {shared} --images {tiles}/val --error_map --out {tmp_path}/e.png".split()) == 0
    assert "scores of 4" in capsys.readouterr().out
    for name in ("maps", "e"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert len(picture.convert("RGB").getcolors(2**24)) > 100
