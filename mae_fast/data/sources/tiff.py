"""TIFF files that Pillow has no mode for: many bands, in one page or a page each, 16 bits of colour. Read by tifffile.

The files may come from strangers: pages alone are looked at, never the metadata that names other files, and a segment
that would unpack to more than the picture holds is refused before it is unpacked.
"""

import logging
import os
import zlib
from typing import BinaryIO

import numpy as np

MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_BANDS = 4096
DEFLATE = (8, 32946)
READ = (1, 5, 32773, *DEFLATE)  # none, LZW, PackBits, deflate: what writers of data use
HARMLESS = 2**20  # bytes of a compressed segment, which unpack to a gigabyte at most


def layout(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
    """-> (C, H, W) and type. ValueError, a reason alone, for a file that is no picture of bands or is incomplete."""
    with _open(file) as opened:
        return _layout(opened, _pages(opened))


def read(file: BinaryIO) -> np.ndarray:
    """The array (C, H, W) in a file."""
    with _open(file) as opened:
        pages = _pages(opened)
        shape, _ = _layout(opened, pages)
        for page in pages:
            _refuse_bombs(opened, page)
        bands = [page.asarray(maxworkers=1) for page in pages]
        array = np.stack(bands) if pages[0].samplesperpixel == 1 else bands[0]
        return array.transpose(2, 0, 1) if pages[0].axes == "YXS" else array.reshape(shape)


def _open(file: BinaryIO):
    try:
        import tifffile
    except ImportError:
        raise ValueError("unsupported: a TIFF of several bands needs tifffile; pip install tifffile") from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong with a file is told as its fault
    try:
        return tifffile.TiffFile(file, name="", is_ome=False, is_shaped=False)
    except tifffile.TiffFileError as error:
        raise ValueError(f"damaged: {error}") from None


def _pages(opened) -> list:
    """The pages that are bands: the first, and where it is one band, those that follow and are like it."""
    first = opened.pages[0]
    pages = [first]
    while first.samplesperpixel == 1 and len(pages) <= MOST_BANDS:
        try:
            page = opened.pages[len(pages)]
        except IndexError:
            break
        if page.is_reduced or page.is_mask or (page.shape, page.dtype) != (first.shape, first.dtype):
            break  # overviews and masks
        pages.append(page)
    return pages


def _layout(opened, pages: list) -> tuple[tuple[int, int, int], np.dtype]:
    first, size = pages[0], opened.filehandle.size
    if first.photometric == 5 or first.axes not in ("YX", "YXS", "SYX") or first.dtype is None:
        what = "CMYK" if first.photometric == 5 else f"axes {first.axes} of {first.dtype}"
        raise ValueError(f"unsupported: a TIFF of {what}")
    if len(pages) > MOST_BANDS or first.samplesperpixel > MOST_BANDS:
        raise ValueError(f"too large: more than {MOST_BANDS} bands")
    for page in pages:
        if page.compression not in READ:
            raise ValueError(f"unsupported: a TIFF compressed by {page.compression!r}; save it with deflate")
        segments = zip(page.dataoffsets, page.databytecounts, strict=False)
        if any(offset + count > size for offset, count in segments):
            raise ValueError("truncated: shorter than its header says")
    bands = first.samplesperpixel if first.samplesperpixel > 1 else len(pages)
    return (bands, first.imagelength, first.imagewidth), np.dtype(first.dtype)


def _refuse_bombs(opened, page) -> None:
    """ValueError where a large compressed segment says more than a tile or strip of the picture can hold."""
    if page.compression == 1 or max(page.databytecounts) <= HARMLESS:
        return
    limit = 2 * page.nbytes + HARMLESS  # tiles reach past the edges of the picture
    handle = opened.filehandle
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
        if count > limit:
            raise ValueError(f"damaged: a segment of {count} bytes in a picture of {page.nbytes}")
        if count > HARMLESS and page.compression in DEFLATE:
            handle.seek(offset, os.SEEK_SET)
            if len(zlib.decompressobj().decompress(handle.read(count), limit + 1)) > limit:
                raise ValueError(f"damaged: a segment that unpacks to more than its picture, {page.nbytes} bytes")
