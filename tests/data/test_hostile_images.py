"""Pictures from strangers: bombs, programs in disguise, and pickles that ask for all memory."""

import io
import resource
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from mae_fast.data import check, make_loader, open_source
from mae_fast.data.sources.image_file import read_header

# a process of its own: for each folder the memory that opening and checking it took, in MiB, and what was said of it
MEASURE = """
import resource, sys
from mae_fast.data import check, open_source
for folder in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = check(open_source(folder))
    except ValueError as error:
        said = str(error)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, said)
"""


def measure(folders):
    limit = lambda: resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))  # noqa: E731
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    child = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit, timeout=120)
    assert child.returncode == 0, child.stderr
    lines = [line.split(" ", 1) for line in child.stdout.splitlines()]
    assert len(lines) == len(folders)
    return [(int(size), said) for size, said in lines]


def png(width, height, rows):
    """A PNG whose header says width and height, and whose content is `rows`, compressed."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def jpeg_of(width, height):
    """A small JPEG whose header says another size."""
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, "JPEG")
    at = content.getvalue().index(b"\xff\xc0") + 5
    return content.getvalue()[:at] + struct.pack(">HH", height, width) + content.getvalue()[at + 4 :]


BOMBS = {
    "a.png": png(60_000, 60_000, bytes(100_000_000)),
    "b.jpg": jpeg_of(65_000, 65_000),
    "c.ppm": b"P6\n60000 60000\n255\n" + bytes(1000),
    "d.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_by_their_header(tmp_path, backend, name):
    for number in range(4):
        Image.new("RGB", (20, 20), (number * 50, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / name).write_bytes(BOMBS[name])
    source = open_source(tmp_path)
    ((found, reason),) = check(source)
    assert found == str(tmp_path / name) and reason.startswith("too large: Image size (") and "pixels" in reason
    tested = make_loader(source, 5, 16, backend=backend, num_workers=1 if backend == "dali" else 0)
    assert len(list(tested.epoch(0))) == 1 and tested.bad_images == {found: reason}


def test_a_program_called_jpg_is_not_run(tmp_path, monkeypatch):
    """Pillow gives EPS files to Ghostscript."""
    marker = tmp_path / "ran"
    (tmp_path / "bin").mkdir()
    for name in ("gs", "gswin64c"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {marker}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (tmp_path / "in").mkdir()
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (tmp_path / "in" / "a.jpg").write_bytes(program)
    with Image.open(tmp_path / "in" / "a.jpg") as opened, pytest.raises(OSError):
        opened.load()
    assert marker.exists()  # so Pillow would have run it
    marker.unlink()
    assert check(open_source(tmp_path / "in")) == [(str(tmp_path / "in" / "a.jpg"), "not an image")]
    assert not marker.exists() and read_header(program).fault == "not an image"


PICKLES = {
    "a table of 2^27 places": b"\x80\x02}r\0\0\0\x08.",
    "a table of 2^27 places, as text": b"\x80\x02}p134217728\n.",
    "a text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "bytes of 2^40": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",
    "a frame of 2^62": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
    "lists in lists": b"(" * 100_000 + b"l" * 100_000 + b".",
    "an array of 2^50": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
    + b"\x8a\x07\0\0\0\0\0\0\x04\x85U\x01btR.",
}


def text_of_200_megabytes():
    """In a PNG chunks of text are compressed as well; Pillow unpacks 1 MiB of each, and 64 MiB of all."""
    whole = png(20, 20, bytes(20 * 61))
    data = b"Comment\0\0" + zlib.compress(bytes(200_000_000))
    return whole[:33] + struct.pack(">I", len(data)) + b"zTXt" + data + bytes(4) + whole[33:]


def test_bombs_take_no_memory(tmp_path):
    folders = []
    for number, (name, content) in enumerate({"a.png": BOMBS["a.png"], "b.png": text_of_200_megabytes()}.items()):
        folders.append(tmp_path / str(number))
        folders[-1].mkdir()
        (folders[-1] / name).write_bytes(content)
    for number, content in enumerate(PICKLES.values()):
        folders.append(tmp_path / f"pickle{number}" / "cifar-100-python")
        folders[-1].mkdir(parents=True)
        (folders[-1] / "train").write_bytes(content)
    for folder, (size, said) in zip(folders, measure(folders), strict=True):
        assert size < 100 and (f"{folder}/train: " in said or "too large" in said or "damaged" in said), (size, said)
