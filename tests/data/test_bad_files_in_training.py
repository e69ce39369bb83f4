"""Bad and rare files among good ones, by both engines."""

import shutil

import numpy as np
import pytest
from PIL import Image

from mae_fast.data import BadImageError
from mae_fast.data.sources.image_file import decode_rgb, read_header
from tests.data.bad_files import UNREADABLE, UNUSUAL, assert_close, epoch, loader, make_bad


@pytest.mark.parametrize("kind", UNREADABLE | UNUSUAL)
def test_skip_puts_the_next_good_picture_in_its_place(folder, backend, kind):
    order = loader(folder, backend)._engine.planner.sampler.order(0)
    place = 19  # the fourth of the third batch
    victim = int(order[place])
    before = epoch(loader(folder, "pillow"))
    make_bad(kind, folder / f"{victim:03d}.jpg", folder / f"{victim:03d}.jpg")

    damaged = loader(folder, backend)
    batches = epoch(damaged)
    ((name, reason),) = damaged.bad_images.items()
    assert name.endswith(f"{victim:03d}.jpg") and reason.startswith((UNREADABLE | UNUSUAL)[kind])

    # everything but the victim's place is as it was, and there is the next picture with the victim's random numbers
    shutil.copy(folder / f"{int(order[place + 1]):03d}.jpg", folder / f"{victim:03d}.jpg")
    expected = epoch(loader(folder, "pillow"))
    assert_close(batches, expected)
    assert np.abs(before[2][3].astype(int) - batches[2][3]).mean() > 5
    before[2][3] = batches[2][3]
    assert_close(batches, before)


@pytest.mark.parametrize("kind", ["truncated jpeg", "damaged png", "cmyk", "zero bytes"])
def test_stop_names_the_file_when_its_batch_is_due(folder, backend, kind):
    order = loader(folder, backend)._engine.planner.sampler.order(0)
    victim = folder / f"{int(order[19]):03d}.jpg"
    make_bad(kind, victim, victim)
    batches, seen = loader(folder, backend, on_bad_image="stop").epoch(0), 0
    with pytest.raises(BadImageError, match=rf"{victim}: {(UNREADABLE | UNUSUAL)[kind]}.*; .*on_bad_image"):
        for _ in batches:
            seen += 1
    assert seen == 2


@pytest.mark.parametrize("kind", UNUSUAL)
def test_convert_gives_the_picture_itself(folder, backend, kind):
    order = loader(folder, backend)._engine.planner.sampler.order(0)
    victim = folder / f"{int(order[19]):03d}.jpg"
    if kind in ("16-bit grey", "16-bit tiff", "16-bit ppm"):
        Image.open(victim).convert("L").save(victim, quality=95)
    expected = epoch(loader(folder, "pillow"))
    make_bad(kind, victim, victim)
    converting = loader(folder, backend, on_bad_image="convert")
    assert_close(epoch(converting), expected, tolerance={"palette": 8, "cmyk": 4}.get(kind, 2))
    assert converting.bad_images == {}


def test_many_bad_files_give_the_same_batches_by_both_loaders(folder):
    pytest.importorskip("nvidia.dali")
    for number, kind in enumerate(UNREADABLE | UNUSUAL):
        make_bad(kind, folder / f"{2 * number:03d}.jpg", folder / f"{2 * number:03d}.jpg")
    pillow, dali = loader(folder, "pillow", num_workers=2), loader(folder, "dali")
    for number in (0, 1):
        assert_close(epoch(dali, number), epoch(pillow, number))
    assert dali.bad_images == pillow.bad_images and len(dali.bad_images) == len(UNREADABLE | UNUSUAL)


def test_good_but_rare_files_are_used(folder, backend):
    """Grey, alpha, one bit, TIFF, BMP, WebP, EXIF rotation, data after the end: as Pillow and torchvision read them."""
    image = Image.open(folder / "000.jpg").convert("RGB")
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.new("L", image.size, 77))
    for number, (odd, kind) in enumerate(
        [
            (image.convert("L"), "JPEG"),
            (image.convert("L"), "PNG"),
            (alpha, "PNG"),
            (alpha.convert("LA"), "PNG"),
            (image.convert("1"), "PNG"),
            (image, "TIFF"),
            (image, "BMP"),
            (image, "PPM"),
            (alpha, "WEBP"),
            (image, "GIF"),
        ]
    ):
        odd.save(folder / f"{number:03d}.jpg", kind)
    turned = Image.Exif()
    turned[0x112] = 6  # "rotate by 90 degrees to show"
    image.save(folder / "010.jpg", "JPEG", exif=turned, quality=95)
    image.save(folder / "011.jpg", "JPEG", quality=95)
    image.crop((0, 0, 256, 128)).save(folder / "013.jpg", "JPEG", exif=turned, quality=95)
    with open(folder / "012.jpg", "ab") as file:
        file.write(b"appended by a camera")
    header = read_header(str(folder / "013.jpg"))
    assert (header.height, header.width, header.fault) == (128, 256, None)
    assert read_header(str(folder / "012.jpg")).fault is None
    tested = loader(folder, backend, on_bad_image="convert")
    batches = epoch(tested)
    assert tested.bad_images == {}

    for number in range(10):  # the oracle sees lossless RGB copies of what Pillow makes of each
        decode_rgb(str(folder / f"{number:03d}.jpg")).save(folder / f"{number:03d}.jpg", "PNG")
    shutil.copy(folder / "011.jpg", folder / "010.jpg")
    assert_close(batches, epoch(loader(folder, "pillow")))


def test_no_good_image_at_all_is_an_error(folder, backend):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(BadImageError, match=r"not one good image; the first: .*jpg: zero bytes"):
        epoch(loader(folder, backend))


def test_error_that_no_file_explains_is_passed_on(folder, monkeypatch):
    pytest.importorskip("nvidia.dali")
    tested = loader(folder, "dali")

    def fail(self):
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(type(tested._engine), "_collect", fail)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        epoch(tested)
    assert tested.bad_images == {}
