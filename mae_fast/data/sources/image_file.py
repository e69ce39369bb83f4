"""What an image is, read from its header, and its pixels as an 8-bit photograph, in colour or grey, by Pillow."""

import io
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from mae_fast.data.sources import npy, tiff

PLAIN_MODES = {"1", "L", "LA", "RGB", "RGBA"}  # 8 bits a channel or fewer; alpha is dropped
UNUSUAL_MODES = {"CMYK": "CMYK", "P": "palette", "PA": "palette"}
UNUSUAL = ("CMYK", "palette", "16-bit", "8-bit", "colour")  # convertible, but rarely what was meant
# Modes whose values are those in the file, and their type.
EXACT = {"1": "uint8", "L": "uint8", "LA": "uint8", "RGB": "uint8", "RGBA": "uint8", "F": "float32"}
EXACT |= dict.fromkeys(("I;16", "I;16L", "I;16B", "I;16N"), "uint16")
BITS = {"uint8": (1, 2, 4, 8), "uint16": range(9, 17), "float32": (32,)}
# Pillow knows forty formats more. What a folder of pictures does not hold is not opened: to read an EPS file, whatever
# it is called, Pillow would start Ghostscript, which runs the program in the file.
FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF")
JPEG_END, PNG_END = b"\xff\xd9", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class BadImageError(ValueError):
    """An image file that cannot be trained on; the message names the file, the reason and what to do."""


@dataclass(frozen=True)
class Header:
    """height, width: pixels, as stored (EXIF orientation is ignored, as in torchvision); 0 where there is a fault.

    fault: why the file cannot be read. unusual: one of UNUSUAL; readable, but only after a conversion. kind: Pillow's
    name of the format. channels, type: of the values in the file, alpha counted as a channel; type is "" where Pillow
    would change them.
    """

    height: int = 0
    width: int = 0
    kind: str = ""
    fault: str | None = None
    unusual: str | None = None
    channels: int = 0
    type: str = ""


def open_file(image: str | bytes) -> BinaryIO:
    """The file at a path, or of this content."""
    return io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb")


def read_header(image: str | bytes | np.ndarray) -> Header:
    """Size and health of an image as a source holds it, without decoding it; never raises for a bad file.

    A file whose end does not look as its format demands is decoded once to be sure: cameras append data after the
    end of a JPEG, but an interrupted copy has no end at all, and decoders paint the missing part grey.
    """
    header = describe(image)
    return replace(header, height=0, width=0) if header.fault else header


def describe(image: str | bytes | np.ndarray) -> Header:
    """The same, with the size of what is whole and is only no 8-bit photograph."""
    if isinstance(image, np.ndarray):
        return Header(*image.shape[:2], "pixels", channels=image.shape[2], type=image.dtype.name)
    try:
        with open_file(image) as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            start = file.read(32)
            if not start:
                return Header(fault="zero bytes")
            if start.startswith(npy.MAGIC):
                return _describe_npy(file)
            riff_size = int.from_bytes(start[4:8], "little") + 8 if start.startswith(b"RIFF") else 0
            if size < riff_size:  # WebP
                return Header(fault="truncated: shorter than its header says")
            try:
                with Image.open(file, formats=FORMATS) as opened:
                    header = _describe_opened(opened, start)
                    if header.fault is None and not _ends_well(file, opened):
                        opened.load()
                    return header
            except UnidentifiedImageError:
                if start.startswith(tiff.MAGIC):
                    return _describe_bands(file)
                known = start.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF"))
                return Header(fault="truncated: the header is incomplete" if known else "not an image")
    except Exception as error:  # a damaged file may raise anything at all inside Pillow
        return Header(fault=explain(error))


def explain(error: Exception) -> str:
    """A short reason, starting with its category, for what Pillow or the file system raised."""
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, FileNotFoundError):
        return "missing: it was there when the folder was listed"
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {error}"
    text = str(error) or type(error).__name__
    if text.startswith(("truncated", "damaged", "too large", "unsupported")):
        return text
    return f"truncated: {text}" if "truncated" in text.lower() else f"damaged: {text}"


def decode_rgb(image: str | bytes | np.ndarray) -> Image.Image:
    """The whole image, as a source holds it, in 8-bit RGB; alpha dropped, 16-bit values scaled.

    Raises what Pillow raises for a bad file.
    """
    return decode_as(image, "RGB")


def decode_as(image: str | bytes | np.ndarray, mode: str) -> Image.Image:
    """The same in a mode of Pillow's, RGB or L: colour becomes grey by its luma, grey three equal channels."""
    if isinstance(image, np.ndarray):
        picture = Image.fromarray(image)
        return picture if picture.mode == mode else picture.convert(mode)
    with open_file(image) as file:
        if file.read(len(npy.MAGIC)) == npy.MAGIC:
            file.seek(0)
            return _eight_bits(npy.read(file)).convert(mode)
        file.seek(0)
        with Image.open(file, formats=FORMATS) as opened:
            if opened.mode == "I" or opened.mode.startswith("I;16"):
                return _eight_bits(np.asarray(opened)[None]).convert(mode)  # Pillow's own conversion would clip at 255
            opened.load()
            return opened if opened.mode == mode else opened.convert(mode)


def _eight_bits(values: np.ndarray) -> Image.Image:
    """uint8 (C, H, W), or 16-bit values, which are scaled -> a picture of one channel or three."""
    if values.dtype != np.uint8:
        values = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Image.fromarray(values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0)))


def values_of(image: Image.Image, start: bytes) -> str:
    """The type of an image's values; "" where Pillow changes them: 16 bits of colour, 64-bit floats, many bands."""
    kind = EXACT.get(image.mode, "")
    several = image.format == "TIFF" and (getattr(image, "is_animated", False) or _unseen_bands(image))
    return "" if several or _bits(image, start) not in BITS.get(kind, ()) else kind


def _describe_opened(image: Image.Image, start: bytes) -> Header:
    height, width, mode, kind = image.height, image.width, image.mode, image.format or ""
    exact = {"channels": len(image.getbands()), "type": values_of(image, start)}
    unusual = UNUSUAL_MODES.get(mode)
    # 16-bit colour opens as plain RGB, so the mode alone does not tell
    if mode.startswith("I;16") or (mode == "I" and kind == "PPM") or _bits(image, start) == 16:
        unusual = "16-bit"
    if kind == "TIFF" and _unseen_bands(image):
        return Header(height, width, kind, fault=_bands(image.tag_v2[277], f"{_bits(image, start)} bits"))
    if mode not in PLAIN_MODES and unusual is None:
        return Header(height, width, kind, fault=f"unsupported colours (Pillow mode {mode})", **exact)
    return Header(height, width, kind, unusual=unusual, **exact)


def _describe_npy(file: BinaryIO) -> Header:
    file.seek(0)
    (channels, height, width), dtype, _ = npy.layout(file)
    exact = {"channels": channels, "type": dtype.name}
    if channels not in (1, 3) or dtype.name not in ("uint8", "uint16"):
        return Header(height, width, "NPY", fault=_bands(channels, dtype.name), **exact)
    return Header(height, width, "NPY", unusual="16-bit" if dtype.name == "uint16" else None, **exact)


def _describe_bands(file: BinaryIO) -> Header:
    file.seek(0)
    (channels, _, _), dtype = tiff.layout(file)
    return Header(kind="TIFF", fault=_bands(channels, dtype.name))


def _bands(channels: int, kind: str) -> str:
    return f"unsupported colours ({channels} channels of {kind}; to train on them: in_chans {channels})"


def _unseen_bands(image: Image.Image) -> bool:
    """Whether a TIFF has more bands, in planes, than Pillow says."""
    return image.tag_v2.get(277, 1) > len(image.getbands())


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
