"""Loaders of pictures that are not 8-bit RGB: the same windows and flips, batches as the model takes them."""

import io
import shutil

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mae_fast.data import BadImageError, check, make_loader, measure, open_pictures, open_source, pack, pixels_of
from mae_fast.data.arrays import resized
from mae_fast.pixels import RGB, Pixels
from tests.data.batches import images, mean_difference
from tests.data.other_pictures import tile, write_arrays, write_tiles, write_xrays, xray


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    made = {"xrays": write_xrays, "tiles": write_tiles, "arrays": write_arrays}
    return {name: write(root / name) for name, write in made.items()}


def loader(source, pixels, **arguments):
    return make_loader(source, 4, (16, 24), pixels=pixels, **{"num_workers": 0} | arguments)


def test_the_type_is_that_of_the_files_and_the_range_that_of_the_type(folders):
    found = {name: pixels_of(open_source(folder), None) for name, folder in folders.items()}
    assert [str(pixels) for pixels in found.values()] == [
        "1 channel of uint16, values 0 to 65535",
        "12 channels of uint16, values 0 to 65535",
        "5 channels of float32, values 0 to 1",
    ]
    assert pixels_of(open_source(folders["xrays"])) == RGB  # nobody asked for another
    assert pixels_of(open_source(folders["xrays"]), 1, (0, 4095)).value_range == (0, 4095)


def test_batches_are_the_planned_windows_of_the_values(folders):
    source, mean, std = open_source(folders["tiles"]), np.linspace(0.01, 0.1, 12), np.linspace(0.2, 0.3, 12)
    pixels = Pixels(12, "uint16", (0, 4095), tuple(mean), tuple(std))
    batches = loader(source, pixels)
    planner = batches._engine.planner
    for number, imgs in enumerate(images(batches.epoch(3))):
        assert imgs.dtype == torch.float32 and imgs.shape == (4, 12, 16, 24)
        plan = planner.plan(3, number)
        assert plan.flip.any()
        for slot, index in enumerate(plan.indices):
            top, left, height, width = plan.windows[slot]
            window = tile(int(index))[:, top : top + height, left : left + width].astype(np.float32)
            expected = torch.nn.functional.interpolate(
                torch.from_numpy(window)[None], (16, 24), mode="bicubic", antialias=True
            )[0]
            expected = expected.flip(-1) if plan.flip[slot] else expected
            expected = (expected / 4095 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
            torch.testing.assert_close(imgs[slot], expected.float(), rtol=1e-4, atol=1e-4)


def test_worker_processes_give_the_same_batches(folders):
    source, pixels = open_source(folders["arrays"]), Pixels(5, "float32")
    alone, helped = (list(images(loader(source, pixels, num_workers=n).epoch(1))) for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("greys")
    for number in range(8):
        kind = ("jpg", "png")[number % 2]
        Image.fromarray((xray(number) >> 8).astype(np.uint8)).save(folder / f"{number}.{kind}")
    return folder


def test_grey_of_eight_bits_goes_through_dali_to_the_same_pixels(greys):
    pytest.importorskip("nvidia.dali")
    source = open_source(greys)
    plain, dali = (loader(source, Pixels(1), backend=name, num_workers=2) for name in ("pillow", "dali"))
    assert (plain.backend, dali.backend) == ("pillow", "dali")
    for ours, theirs in zip(images(plain.epoch(0)), images(dali.epoch(0)), strict=True):
        assert ours.shape == theirs.shape == (4, 16, 24, 1) and ours.dtype == theirs.dtype == torch.uint8
        assert mean_difference(ours, theirs).max() < 1.5


def test_colour_among_grey_is_bad_unless_it_is_to_be_converted(greys, tmp_path, backend):
    folder = shutil.copytree(greys, tmp_path / "greys")
    colour = np.stack([(xray(0) >> 8).astype(np.uint8)] * 3, -1)
    Image.fromarray(colour).save(folder / "0.jpg", quality=95)
    source, convert = open_source(folder), {"backend": backend, "num_workers": 2, "on_bad_image": "convert"}
    with pytest.raises(BadImageError, match=r"0\.jpg: colour; convert it to 8-bit grey, or use on_bad_image convert"):
        list(loader(source, Pixels(1), backend=backend, num_workers=2, on_bad_image="stop").epoch(0))
    converted = loader(source, Pixels(1), **convert)
    assert len(list(converted.epoch(0))) == 2 and not converted.bad_images
    assert check(source, pixels=Pixels(1)) == [(str(folder / "0.jpg"), "colour")]


def test_what_does_not_fit_is_named_with_what_to_do(folders, tmp_path):
    folder = shutil.copytree(folders["xrays"], tmp_path / "mixed")
    Image.fromarray((xray(0) >> 8).astype(np.uint8)).save(folder / "00.png")
    tifffile.imwrite(folder / "01.tif", tile(0))
    (folder / "02.png").write_bytes((folder / "02.png").read_bytes()[:200])
    np.save(folder / "ignored.npy", tile(0))  # beside pictures arrays are something else
    source, pixels = open_source(folder), Pixels(1, "uint16")
    found = {name.rpartition("/")[2]: reason for name, reason in check(source, pixels=pixels)}
    assert found.pop("02.png").startswith("truncated")
    assert found == {"00.png": "8-bit", "01.tif": "12 channels, not 1 (in_chans); in_chans 12 takes it"}
    with pytest.raises(BadImageError, match=r"write it as uint16, or use on_bad_image convert|repair or delete it"):
        list(loader(source, pixels, on_bad_image="stop").epoch(0))
    taken = loader(source, pixels, on_bad_image="convert")
    list(taken.epoch(0))
    assert {name.rpartition("/")[2] for name in taken.bad_images} <= {"01.tif", "02.png"}
    eight = open_pictures([folder / "00.png"], pixels, (40, 56))
    torch.testing.assert_close(eight[0, 0], torch.from_numpy((xray(0) >> 8).astype(np.float32)) / 255 * 2 - 1)


def test_what_dali_and_colour_cannot_do_is_said(folders):
    source = open_source(folders["tiles"])
    with pytest.raises(ValueError, match=r"backend: dali reads 8-bit RGB and 8-bit grey, not 12 channels of uint16"):
        loader(source, Pixels(12, "uint16"), backend="dali")
    with pytest.raises(ValueError, match=r"augment: this one changes colours.*use light"):
        loader(source, Pixels(12, "uint16"), augment="medium")
    with pytest.raises(BadImageError, match=r"16-bit; .* give in_chans and value_range, as mae-fast data stats"):
        list(make_loader(source, 4, 16, num_workers=0, backend="pillow").epoch(0))


def test_statistics_are_those_of_all_pixels(folders):
    for name, pixels, values in (
        ("xrays", Pixels(1, "uint16"), [xray(n)[None] / 65535 for n in range(12)]),
        ("tiles", Pixels(12, "uint16", (0, 4095)), [tile(n) / 4095 for n in range(12)]),
    ):
        mean, std, bad = measure(open_source(folders[name]), pixels)
        every = np.concatenate([array.reshape(len(array), -1) for array in values], axis=1)
        assert bad == 0
        np.testing.assert_allclose(mean, every.mean(1), rtol=1e-9)
        np.testing.assert_allclose(std, every.std(1), rtol=1e-6)


@pytest.mark.parametrize("name", ["xrays", "tiles", "arrays"])
def test_shards_hold_the_same_files(folders, name, tmp_path):
    written, bad = pack(folders[name], tmp_path / "shards")
    assert (written, bad) == (12, [])
    source, packed = open_source(folders[name]), open_source(tmp_path / "shards")
    pixels = pixels_of(packed, None)
    assert pixels == pixels_of(source, None) and check(packed, pixels=pixels) == []
    ours, theirs = (list(images(loader(it, pixels).epoch(2))) for it in (source, packed))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_pictures_for_a_model_are_their_centres(folders):
    pixels = Pixels(12, "uint16")
    batch = open_pictures([folders["tiles"] / "03.tif"], pixels, (32, 32))
    assert torch.equal(batch, pixels.batch(resized(tile(3)[:, :, 8:48], (32, 32))[None]))
    with pytest.raises(ValueError, match=r"03\.tif: 12 channels, not 4 \(in_chans\)"):
        open_pictures([folders["tiles"] / "03.tif"], Pixels(4, "uint16"), (32, 32))


def test_a_batch_and_its_picture_are_each_others_inverse():
    values = torch.rand(2, 2, 4, 4) * 3000 - 1000
    pixels = Pixels(2, "float32", (-1000, 2000), (0.3, 0.4), (0.1, 0.2))
    torch.testing.assert_close(pixels.unit(pixels.batch(values)), (values + 1000) / 3000)
    assert pixels.blank(3, (4, 6)).shape == (3, 2, 4, 6) and Pixels(4).blank(3, (4, 6)).shape == (3, 4, 6, 4)
    eight = torch.randint(0, 256, (2, 4, 4, 4)).float()
    assert torch.equal(Pixels(4).unit(Pixels(4).batch(eight)) * 255, eight)


def test_an_npy_picture_of_eight_bits_is_a_photograph(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (3, 40, 40), np.uint8)
    for number in range(4):
        np.save(tmp_path / f"{number}.npy", rgb)
    content = io.BytesIO()
    np.save(content, rgb)
    [imgs] = images(make_loader(open_source(tmp_path), 4, 16, num_workers=0, backend="pillow").epoch(0))
    assert imgs.shape == (4, 16, 16, 3)
    [whole] = open_pictures([tmp_path / "0.npy"], RGB, (40, 40))
    assert np.array_equal(whole.permute(2, 0, 1).numpy(), rgb)
