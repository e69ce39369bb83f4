"""Who reads the pictures of a run: as photographs by Pillow where they are 8-bit RGB or grey, else as arrays."""

from dataclasses import replace

import numpy as np
from PIL import Image

from mae_fast.data.sources.array_file import array_header, read_array
from mae_fast.data.sources.image_file import Header, decode_as, explain, read_header
from mae_fast.pixels import TYPES, Pixels


class Reader:
    """Headers and pictures of a source, as a run wants them. `advice`: what to do with what is readable but unusual."""

    advice = ""

    def header(self, image: str | bytes | np.ndarray) -> Header:
        """What the file is to this run; never raises for a bad one."""
        raise NotImplementedError

    def decode(self, image: str | bytes | np.ndarray) -> Image.Image | np.ndarray:
        """The whole picture. Raises what a bad file makes Pillow, numpy or tifffile raise."""
        raise NotImplementedError

    def header_of(self, source, index: int) -> Header:
        """That of an image of a source; what the source cannot give is a fault as well."""
        try:
            image = source.encoded(index)
        except Exception as error:  # of an archive: not as its index says, an error of the disk
            return Header(fault=explain(error))
        return self.header(image)


class Photos(Reader):
    """8-bit pictures in a mode of Pillow's, RGB or L. Grey files count as RGB, but colour is converted to grey only
    where that was asked for: it is another picture."""

    def __init__(self, mode: str):
        self.mode = mode
        wanted = {"RGB": "RGB", "L": "grey"}[mode]
        self.advice = (
            f"convert it to 8-bit {wanted}, or use on_bad_image convert; to train on other values than those of 8-bit "
            f"{wanted} give in_chans and value_range, as mae-fast data stats writes them"
        )

    def header(self, image):
        header = read_header(image)
        colour = self.mode == "L" and header.channels >= 3
        return replace(header, unusual="colour") if colour and not (header.fault or header.unusual) else header

    def decode(self, image) -> Image.Image:
        return decode_as(image, self.mode)


class Arrays(Reader):
    """Values as they are in files, (C, H, W). Of 8 and 16 bits one becomes the other where both mean their range."""

    def __init__(self, pixels: Pixels):
        self.pixels = pixels
        self.advice = f"write it as {pixels.type}, or use on_bad_image convert"

    def header(self, image):
        header, wanted = array_header(image), self.pixels
        if header.fault:
            return header
        if header.channels != wanted.channels:
            swapped = header.kind == "NPY" and header.width == wanted.channels
            hint = "arrays are (channels, height, width)" if swapped else f"in_chans {header.channels} takes it"
            return replace(header, fault=f"{header.channels} channels, not {wanted.channels} (in_chans); {hint}")
        if header.type == wanted.type:
            return header
        whole = wanted.value_range == TYPES[wanted.type]
        if whole and {header.type, wanted.type} == {"uint8", "uint16"}:
            return replace(header, unusual={"uint8": "8-bit", "uint16": "16-bit"}[header.type])
        return replace(header, fault=f"values of {header.type}, not {wanted.type} as most of the files")

    def decode(self, image) -> np.ndarray:
        array = read_array(image)
        if array.dtype == np.uint8 and self.pixels.type == "uint16":
            return array.astype(np.uint16) * np.uint16(257)
        if array.dtype == np.uint16 and self.pixels.type == "uint8":
            return ((array.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        return array


def reader_of(pixels: Pixels) -> Reader:
    return Photos(pixels.mode) if pixels.mode else Arrays(pixels)
