"""Pictures to reconstruct are decoded as those to train on."""

import numpy as np
import pytest
from PIL import Image

from mae_fast.data.sources.image_file import decode_rgb
from mae_fast.downstream.reconstruct import load_images
from mae_fast.pixels import RGB, Pixels


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)[None].repeat(64, 0)
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    for channels in (1, 3):
        _, imgs = load_images(tmp_path, (64, 64), Pixels(channels), 8)
        assert imgs.shape == (1, 64, 64, channels) and imgs.float().mean().item() == pytest.approx(127.5, abs=0.5)
    assert np.array_equal(imgs[0].numpy(), np.asarray(decode_rgb(str(tmp_path / "ramp.png"))))


def test_a_bad_picture_is_named_with_its_reason(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty\.jpg: zero bytes"):
        load_images(tmp_path, (8, 8), RGB, 8)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut\.jpg: truncated"):
        load_images(tmp_path / "cut.jpg", (8, 8), RGB, 8)
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_images(tmp_path / "none", (8, 8), RGB, 8)
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="images: no pictures in"):
        load_images(tmp_path / "folder", (8, 8), RGB, 8)
