"""Every file of a source decoded once: what training would skip or stop at, before it starts."""

import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from mae_fast.data.loader import available_cpus
from mae_fast.data.sources import Source
from mae_fast.data.sources.image_file import explain
from mae_fast.data.sources.reader import Reader, reader_of
from mae_fast.pixels import RGB, Pixels

CHUNK = 1024  # files under way at once


def check(
    source: Source, progress: Callable[[int, int], None] | None = None, pixels: Pixels = RGB
) -> list[tuple[str, str]]:
    """Find every file that training on such pixels would not take as it is: (name, reason), in the source's order.

    Reasons start with their category: zero bytes, not an image, truncated, damaged, permission denied, missing, too
    large, unsupported; and CMYK, palette, 16-bit, 8-bit, colour, which on_bad_image="convert" takes. Of tar shards also
    those whose index says otherwise than the tar; of what was packed by us also pictures whose bytes are not those that
    were packed. progress: called with (files done, files in all).
    """
    reader = reader_of(pixels)
    bad = source.disagreements() if hasattr(source, "disagreements") else []
    with ThreadPoolExecutor(available_cpus()) as pool:
        for start in range(0, len(source), CHUNK):
            chunk = range(start, min(start + CHUNK, len(source)))
            for index, reason in zip(chunk, pool.map(lambda index: _reason(source, index, reader), chunk), strict=True):
                if reason is not None:
                    bad.append((source.name(index), reason))
            if progress is not None:
                progress(chunk.stop, len(source))
    return bad


def _reason(source: Source, index: int, reader: Reader) -> str | None:
    header = reader.header_of(source, index)
    if header.fault or header.unusual:
        return header.fault or header.unusual
    try:
        image = source.encoded(index)
        checksums = getattr(source, "checksums", None)
        if checksums is not None and zlib.crc32(image) != checksums[index]:
            return "damaged: not the bytes that were packed (crc32)"
        reader.decode(image)
    except Exception as error:  # a damaged file may raise anything at all inside Pillow
        return explain(error)
    return None
