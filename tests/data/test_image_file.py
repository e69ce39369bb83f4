"""Bad, odd and damaged files: recognised, named, skipped, stopped at or converted; never trained on."""

import os
import random
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mae_fast.data import BadImageError, check, make_loader, open_source, write_sample_photos
from mae_fast.data.sources.image_file import decode_rgb, read_header


@pytest.fixture(params=["pillow", "dali"])
def backend(request):
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return request.param


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 photographs in one flat folder, 000.jpg to 047.jpg."""
    folder = tmp_path_factory.mktemp("photos")
    tiles = sorted(path for path in write_sample_photos(folder / "all") if "train" in path.parts)
    (folder / "flat").mkdir()
    for number, path in enumerate(random.Random(0).sample(tiles, 48)):
        shutil.copy(path, folder / "flat" / f"{number:03d}.jpg")
    return folder / "flat"


def sixteen_bit_png(pixels):
    """uint16 (H, W, 3) as a PNG file; Pillow cannot write one."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png_bytes(image, path):
    image.save(path, "PNG")
    return bytearray(path.read_bytes())


def make_bad(kind, path, photo):
    """Put a bad file at `path`, made from the photograph `photo`."""
    image, content = Image.open(photo).convert("RGB"), photo.read_bytes()
    if kind == "zero bytes":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_bytes(b"hello" * 100)
    elif kind == "truncated jpeg":
        path.write_bytes(content[: len(content) // 2])
    elif kind == "truncated jpeg, last tenth":
        path.write_bytes(content[: len(content) * 9 // 10])
    elif kind == "zero-filled jpeg":
        # so many bytes a pixel that the zeros last to the end of the picture: Pillow decodes it without complaint
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8))
        noise.save(path, "JPEG", quality=98, comment=b"an end marker, as thumbnails have: \xff\xd9")
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))
    elif kind == "header only":
        path.write_bytes(content[:40])
    elif kind == "truncated png":
        data = png_bytes(image, path)
        path.write_bytes(data[: len(data) // 2])
    elif kind == "png without end":
        path.write_bytes(png_bytes(image, path)[:-12])
    elif kind == "damaged png":  # complete in structure: only decoding it tells
        data = png_bytes(image, path)
        data[len(data) // 2] ^= 0x55
        path.write_bytes(data)
    elif kind == "truncated webp":
        image.save(path, "WEBP")
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "truncated bmp":
        image.save(path, "BMP")
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "float tiff":
        Image.fromarray(np.zeros((64, 64), np.float32)).save(path, "TIFF")
    elif kind == "cmyk":
        image.convert("CMYK").save(path, "JPEG")
    elif kind == "palette":
        image.quantize(64).save(path, "PNG")
    elif kind == "16-bit grey":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path, "PNG")
    elif kind == "16-bit tiff":
        Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257).save(path, "TIFF")
    elif kind == "16-bit colour":
        path.write_bytes(sixteen_bit_png(np.asarray(image).astype(np.uint16) * 257))
    elif kind == "16-bit ppm":
        grey = np.asarray(image.convert("L")).astype(">u2") * 257
        path.write_bytes(b"P5\n%d %d\n65535\n" % image.size + grey.astype(">u2").tobytes())


UNREADABLE = {
    "zero bytes": "zero bytes",
    "text": "not an image",
    "truncated jpeg": "truncated",
    "zero-filled jpeg": "truncated",
    "truncated jpeg, last tenth": "truncated",
    "header only": "truncated",
    "truncated png": "truncated",
    "png without end": "truncated",
    "damaged png": "damaged",
    "truncated webp": "truncated",
    "truncated bmp": "truncated",
    "float tiff": "unsupported colours",
}
UNUSUAL = {
    "cmyk": "CMYK",
    "palette": "palette",
    "16-bit grey": "16-bit",
    "16-bit tiff": "16-bit",
    "16-bit colour": "16-bit",
    "16-bit ppm": "16-bit",
}


@pytest.fixture
def folder(photos, tmp_path):
    """A copy of the photographs that a test may damage."""
    return shutil.copytree(photos, tmp_path / "images")


def loader(folder, backend, **arguments):
    arguments = {"seed": 3, "num_workers": 2 if backend == "dali" else 0, "backend": backend} | arguments
    return make_loader(open_source(folder), 8, 64, **arguments)


def epoch(loader, number=0):
    return [imgs.numpy().copy() for imgs, _ in loader.epoch(number)]


def assert_close(batches, others, tolerance=2):
    """Mean absolute difference of every picture under `tolerance` of 255."""
    assert len(batches) == len(others) > 0
    for batch, other in zip(batches, others, strict=True):
        assert batch.shape == other.shape
        difference = np.abs(batch.astype(int) - other.astype(int)).mean(axis=(1, 2, 3))
        assert difference.max() < tolerance, difference


def test_check_lists_every_bad_file_and_no_good_one(folder):
    names = {}
    for number, (kind, reason) in enumerate((UNREADABLE | UNUSUAL).items()):
        path = folder / f"{number:03d}.jpg"
        make_bad(kind, path, folder / "047.jpg")
        names[str(path)] = reason
    steps = []
    found = check(open_source(folder), progress=lambda done, total: steps.append((done, total)))
    assert [name for name, _ in found] == sorted(names)
    for name, reason in found:
        assert reason.startswith(names[name]), (name, reason)
    assert steps[-1] == (48, 48)


def test_permission_denied_and_missing_are_reasons(folder, monkeypatch):
    source = open_source(folder)
    os.remove(folder / "001.jpg")
    real_open = open

    def refuse(path, *arguments):  # the tests may run as root, whom chmod does not stop
        if str(path).endswith("002.jpg"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments)

    monkeypatch.setattr("mae_fast.data.sources.image_file.open", refuse, raising=False)
    assert read_header(source.encoded(1)).fault.startswith("missing")
    assert read_header(source.encoded(2)).fault == "permission denied"


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


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "grey.png")
    (tmp_path / "colour.png").write_bytes(sixteen_bit_png(np.stack([values] * 3, axis=-1)))
    for name in ("grey.png", "colour.png"):
        pixels = np.asarray(decode_rgb(str(tmp_path / name))).astype(float)
        np.testing.assert_allclose(pixels, np.stack([values / 257.0] * 3, axis=-1), atol=1)


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
