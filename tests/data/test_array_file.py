"""Values come out of files as they went in; what cannot is refused by its header."""

import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from mae_fast.data.sources import tiff as tiff_file
from mae_fast.data.sources.array_file import array_header, read_array
from tests.data.bad_files import sixteen_bit_png
from tests.data.other_pictures import tile, xray

BANDS = tile(0)


def tiff(array, **how):
    return lambda path: tifffile.imwrite(path, array, **how)


def npy(array):
    return lambda path: np.save(path, array)


def pillow(array, **how):
    return lambda path: Image.fromarray(array).save(path, **how)


EIGHT = (xray(1) >> 8).astype(np.uint8)
FILES = {
    "grey8.png": (pillow(EIGHT), EIGHT),
    "grey16.png": (pillow(xray(1)), xray(1)),
    "grey8.tif": (tiff(EIGHT), EIGHT),
    "grey16-lzw.tif": (pillow(xray(1), compression="tiff_lzw"), xray(1)),
    "grey16-big-endian.tif": (tiff(xray(1), byteorder=">"), xray(1)),
    "grey-float.tif": (tiff(xray(1).astype(np.float32) / 7), xray(1).astype(np.float32) / 7),
    "a-page-a-band.tif": (tiff(BANDS), BANDS),
    "planes.tif": (tiff(BANDS, planarconfig="separate", compression="zlib", predictor=True), BANDS),
    "interleaved.tif": (tiff(BANDS.transpose(1, 2, 0), planarconfig="contig"), BANDS),
    "tiled.tif": (tiff(BANDS, planarconfig="separate", tile=(16, 16), compression="zlib"), BANDS),
    "bigtiff.tif": (tiff(BANDS, bigtiff=True), BANDS),
    "colour16.tif": (tiff(BANDS[:3].transpose(1, 2, 0), photometric="rgb"), BANDS[:3]),
    "four8.tif": (tiff((BANDS[:4] >> 4).astype(np.uint8), planarconfig="separate"), (BANDS[:4] >> 4).astype(np.uint8)),
    "uint8.npy": (npy((BANDS >> 4).astype(np.uint8)), (BANDS >> 4).astype(np.uint8)),
    "uint16.npy": (npy(BANDS), BANDS),
    "float.npy": (npy(BANDS.astype(np.float32) / 3), BANDS.astype(np.float32) / 3),
    "big-endian.npy": (npy(BANDS.astype(">u2")), BANDS),
    "fortran.npy": (npy(np.asfortranarray(BANDS)), BANDS),
    "one.npy": (npy(xray(1)), xray(1)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_value_is_read(name, tmp_path):
    write, values = FILES[name]
    write(tmp_path / name)
    values = values if values.ndim == 3 else values[None]
    for image in (str(tmp_path / name), (tmp_path / name).read_bytes()):
        header = array_header(image)
        assert header.fault is None and header.type == values.dtype.name
        assert (header.channels, header.height, header.width) == values.shape
        read = read_array(image)
        assert read.dtype == values.dtype and read.dtype.isnative and np.array_equal(read, values)


def header_claiming(shape, dtype="<u2"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


BAD = {
    "a pickle": (header_claiming((2, 8, 8), "|O") + bytes(1024), "not of numbers"),
    "huge": (header_claiming((12, 10**9, 10**9)) + bytes(1024), "truncated: 1024 bytes of values"),
    "overflowing": (header_claiming((2**40, 2**40, 2**40)) + bytes(8), "truncated"),
    "too long": (header_claiming((1, 4, 4)) + bytes(40), "damaged: 40 bytes of values, its header says 32"),
    "no header": (b"\x93NUMPY\x01\x00\xff\xff" + bytes(64), "damaged: no npy header"),
    "code": (b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').abort()".ljust(32), "damaged: no npy header"),
    "vector": (header_claiming((8,)) + bytes(16), "expected .channels, height, width."),
    "empty side": (header_claiming((3, 0, 8)), "expected .channels, height, width."),
    "float64": (header_claiming((1, 2, 2), "<f8") + bytes(32), "unsupported values .float64.; save it as uint8"),
    "int16": (header_claiming((1, 2, 2), "<i2") + bytes(8), "unsupported values .int16."),
}


@pytest.mark.parametrize("name", BAD)
def test_an_array_that_cannot_be_trained_on_says_why(name):
    content, reason = BAD[name]
    assert re.search(reason, array_header(content).fault)


def test_values_that_are_not_finite_are_refused(tmp_path):
    array = BANDS.astype(np.float32)
    array[3, 5, 5] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"damaged: it holds values that are not finite"):
        read_array(str(tmp_path / "a.npy"))


def test_colour_of_sixteen_bits_in_a_png_is_refused_as_pillow_cuts_it():
    fault = array_header(sixteen_bit_png(BANDS[:3].transpose(1, 2, 0))).fault
    assert "16-bit PNG" in fault and "TIFF or npy" in fault


def tiff_of(tmp_path, array=BANDS, **how):
    tifffile.imwrite(tmp_path / "a.tif", array, planarconfig="separate", **how)
    return bytearray((tmp_path / "a.tif").read_bytes())


def test_a_tiff_that_is_cut_is_truncated(tmp_path):
    content = bytes(tiff_of(tmp_path))
    for end in (4, 100, len(content) // 2, len(content) - 10):
        assert array_header(content[:end]).fault.startswith(("truncated", "damaged")), end


def patched(content, tag, value):
    """A little-endian TIFF whose first page says `value` for a tag of one number."""
    at = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, at)[0]):
        place = at + 2 + 12 * entry
        if struct.unpack_from("<H", content, place)[0] == tag:
            struct.pack_into("<HII", content, place + 2, 4, 1, value)  # as LONG
            return bytes(content)
    raise AssertionError(tag)


def test_a_tiff_that_claims_to_be_huge_is_refused_by_its_header(tmp_path):
    content = patched(tiff_of(tmp_path, compression="zlib", rowsperstrip=40), 256, 2**31)
    assert array_header(content).fault.startswith(("too large", "damaged"))


def test_a_segment_that_unpacks_to_more_than_its_picture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tiff_file, "HARMLESS", 4096)  # packed, as a mebibyte is; the bomb stays small with it
    tifffile.imwrite(tmp_path / "a.tif", BANDS.transpose(1, 2, 0), planarconfig="contig", compression="zlib")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    bomb = zlib.compress(bytes(2**24), 1)
    assert len(bomb) > 4096
    for tag, value in ((273, len(content)), (279, len(bomb))):  # StripOffsets, StripByteCounts
        content = bytearray(patched(content, tag, value))
    content = bytes(content) + bomb
    assert array_header(content).fault is None
    with pytest.raises(ValueError, match="damaged: a segment that unpacks to more than its picture"):
        read_array(content)


def test_pages_that_are_no_bands_are_left_out(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(BANDS, planarconfig="separate", subifds=0)
        file.write(BANDS[:, ::2, ::2], planarconfig="separate", subfiletype=1)  # an overview
    assert np.array_equal(read_array(str(tmp_path / "a.tif")), BANDS)
