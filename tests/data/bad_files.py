"""Files that are damaged, or unusual."""

import struct
import zlib

import numpy as np
from PIL import Image

from mae_fast.data import make_loader, open_source


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
