"""What an image is, read from its header, and its pixels as 8-bit RGB. All opening by Pillow is here."""

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

PLAIN_MODES = {"1", "L", "LA", "RGB", "RGBA"}  # 8 bits a channel or fewer; alpha is dropped
UNUSUAL_MODES = {"CMYK": "CMYK", "P": "palette", "PA": "palette"}
UNUSUAL = ("CMYK", "palette", "16-bit")  # convertible to 8-bit RGB, but rarely what was meant
# Pillow knows forty formats more. What a folder of pictures does not hold is not opened: to read an EPS file, whatever
# it is called, Pillow would start Ghostscript, which runs the program in the file.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
JPEG_END, PNG_END = b"\xff\xd9", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class BadImageError(ValueError):
    """An image file that cannot be trained on; the message names the file, the reason and what to do."""


@dataclass(frozen=True)
class Header:
    """height, width: pixels, as stored (EXIF orientation is ignored, as in torchvision); 0 where there is a fault.

    fault: why the file cannot be read. unusual: "CMYK", "palette" or "16-bit"; readable, but only after a conversion.
    kind: Pillow's name of the format.
    """

    height: int = 0
    width: int = 0
    kind: str = ""
    fault: str | None = None
    unusual: str | None = None


def read_header(image: str | bytes | np.ndarray) -> Header:
    """Size and health of an image as a source holds it, without decoding it; never raises for a bad file.

    A file whose end does not look as its format demands is decoded once to be sure: cameras append data after the
    end of a JPEG, but an interrupted copy has no end at all, and decoders paint the missing part grey.
    """
    if isinstance(image, np.ndarray):
        return Header(*image.shape[:2], "pixels")
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            start = file.read(32)
            if not start:
                return Header(fault="zero bytes")
            riff_size = int.from_bytes(start[4:8], "little") + 8 if start.startswith(b"RIFF") else 0
            if size < riff_size:  # WebP
                return Header(fault="truncated: shorter than its header says")
            try:
                with Image.open(file, formats=FORMATS) as opened:
                    header = _describe(opened, start)
                    if header.fault is None and not _ends_well(file, opened):
                        opened.load()
                    return header
            except UnidentifiedImageError:
                known = start.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF", b"II*\0", b"MM\0*"))
                return Header(fault="truncated: the header is incomplete" if known else "not an image")
    except Exception as error:  # a damaged file may raise anything at all inside Pillow
        return Header(fault=explain(error))


def header_of(source, index: int) -> Header:
    """The same of an image of a source; what the source cannot give is a fault as well."""
    try:
        image = source.encoded(index)
    except Exception as error:  # of an archive: not as its index says, an error of the disk
        return Header(fault=explain(error))
    return read_header(image)


def explain(error: Exception) -> str:
    """A short reason, starting with its category, for what Pillow or the file system raised."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "missing: it was there when the folder was listed"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {error}"
    text = str(error) or type(error).__name__
    if text.startswith(("truncated", "damaged", "too large")):
        return text
    return f"truncated: {text}" if "truncated" in text.lower() else f"damaged: {text}"


def decode_rgb(image: str | bytes | np.ndarray) -> Image.Image:
    """The whole image, as a source holds it, in 8-bit RGB; alpha dropped, 16-bit values scaled.

    Raises what Pillow raises for a bad file.
    """
    if isinstance(image, np.ndarray):
        return Image.fromarray(image)
    with Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=FORMATS) as opened:
        if opened.mode == "I" or opened.mode.startswith("I;16"):
            # Pillow's own conversion would clip at 255
            values = np.asarray(opened).astype(np.uint32)
            return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
        opened.load()
        return opened if opened.mode == "RGB" else opened.convert("RGB")


def _describe(image: Image.Image, start: bytes) -> Header:
    height, width, mode, kind = image.height, image.width, image.mode, image.format or ""
    unusual = UNUSUAL_MODES.get(mode)
    # 16-bit colour opens as plain RGB, so the mode alone does not tell
    if mode.startswith("I;16") or (mode == "I" and kind == "PPM") or _bits(image, start) == 16:
        unusual = "16-bit"
    if mode not in PLAIN_MODES and unusual is None:
        return Header(kind=kind, fault=f"unsupported colours (Pillow mode {mode})")
    return Header(height, width, kind, unusual=unusual)


def _bits(image: Image.Image, start: bytes) -> int:
    """Bits per channel where the mode hides them, else 8."""
    if image.format == "PNG":
        return start[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,)))
    if image.format == "PPM":
        return 16 if _ppm_maximum(image) > 255 else 8
    return 8


def _ppm_maximum(image: Image.Image) -> int:
    arguments = image.tile[0].args if image.tile else None
    return arguments[-1] if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else 255


def _ends_well(file: BinaryIO, image: Image.Image) -> bool:
    """False where only a full decode can tell; raises OSError where the end is certainly missing."""
    pixels_start = file.tell()
    size = file.seek(0, 2)
    file.seek(max(size - len(PNG_END), 0))
    tail = file.read()
    if image.format in ("JPEG", "MPO"):
        if tail.endswith(JPEG_END):
            return True
        end, name = JPEG_END, "end-of-image marker"
    elif image.format == "PNG":
        if tail == PNG_END:
            return True
        end, name = PNG_END, "end chunk"
    else:
        return True  # WebP: its size was right; the others are always decoded by Pillow, which raises
    file.seek(pixels_start)
    if end not in file.read():
        raise OSError(f"truncated: no {name}")
    file.seek(pixels_start)
    return False
