"""Pictures of any number of channels and of 8 bits, 16 bits or floats, as arrays of the values in the file."""

import numpy as np
from PIL import Image

from mae_fast.data.sources import npy, tiff
from mae_fast.data.sources.image_file import FORMATS, Header, describe, explain, open_file, values_of
from mae_fast.pixels import TYPES

LARGEST = 2**31  # bytes of a picture's values


def array_header(image: str | bytes | np.ndarray) -> Header:
    """Size, channels, type and health of a picture as a source holds it; never raises for a bad file.

    A type that is no key of mae_fast.pixels.TYPES, and values of too many bytes, are faults.
    """
    try:
        header = _header(image)
    except Exception as error:  # a damaged file may raise anything at all inside Pillow and tifffile
        return Header(fault=explain(error))
    if header.fault:
        return header
    if header.type not in TYPES:
        fault = f"unsupported values ({header.type or 'unknown'}); save it as {', '.join(TYPES)}"
        return Header(kind=header.kind, fault=fault)
    pixels = float(header.height) * header.width
    size = np.dtype(header.type).itemsize * header.channels
    if pixels > 2 * (Image.MAX_IMAGE_PIXELS or np.inf) or pixels * size > LARGEST:
        return Header(kind=header.kind, fault=f"too large: {pixels:.0f} pixels of {size} bytes; cut it into tiles")
    return header


def read_array(image: str | bytes | np.ndarray) -> np.ndarray:
    """The values of a picture whose header is good, as they are in the file: (C, H, W).

    Raises what Pillow or tifffile raises for a bad file, and ValueError for floats that are not finite.
    """
    if isinstance(image, np.ndarray):
        return image.transpose(2, 0, 1)
    with open_file(image) as file:
        start = _start(file)
        array = npy.read(file) if start.startswith(npy.MAGIC) else _by_pillow(file, start)
        if array is None:
            file.seek(0)
            array = tiff.read(file)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("damaged: it holds values that are not finite; replace NaN and inf by a number")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _header(image: str | bytes | np.ndarray) -> Header:
    header = describe(image)  # finds the missing end of a file that would decode to grey
    if header.type:
        return Header(header.height, header.width, header.kind, channels=header.channels, type=header.type)
    with open_file(image) as file:
        if _start(file).startswith(tiff.MAGIC):
            (channels, height, width), dtype = tiff.layout(file)
            return Header(height, width, "TIFF", channels=channels, type=dtype.name)
    fault = header.fault or f"unsupported values: {header.unusual} {header.kind}; save it as TIFF or npy"
    return Header(kind=header.kind, fault=fault)


def _start(file) -> bytes:
    start = file.read(32)
    file.seek(0)
    return start


def _by_pillow(file, start: bytes) -> np.ndarray | None:
    """(C, H, W); None for a TIFF whose values Pillow would change, or knows no mode for."""
    try:
        with Image.open(file, formats=FORMATS) as opened:
            if not values_of(opened, start):
                return None
            array = np.asarray(opened.convert("L") if opened.mode == "1" else opened)
    except Image.UnidentifiedImageError:
        return None
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
