"""Whatever bytes a picture, tar, index, cache or CIFAR file holds: a fault in words or a documented error; in time.

FUZZ=20 for the long version: so many times as many examples, others every time.
"""

import io
import json
import os
import pickle
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from mae_fast.data import check, open_source, pack
from mae_fast.data.augment import STRENGTHS
from mae_fast.data.pack import How
from mae_fast.data.plan import Planner
from mae_fast.data.sampler import Sampler
from mae_fast.data.sources.array_file import LARGEST, array_header, read_array
from mae_fast.data.sources.cifar import LAYOUTS
from mae_fast.data.sources.image_file import BadImageError, decode_rgb, read_header
from tests.data.hostile_tars import END, GOOD, jpeg, member
from tests.data.other_pictures import tile
from tests.data.test_sources import write_cifar

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import strategies as st  # noqa: E402

LONG = int(os.environ.get("FUZZ", 0))
# the same examples on every machine, as a suite that fails by chance teaches to ignore it
SETTINGS = dict(deadline=None, derandomize=not LONG, database=None, suppress_health_check=list(hypothesis.HealthCheck))
DOCUMENTED = (ValueError, FileNotFoundError, NotADirectoryError)
LONGEST = 5.0  # seconds of a core for one example; a hundredth of that is usual


def picture(format, **options):
    content = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(noise).save(content, format, **options)
    return content.getvalue()


PICTURES = {
    "jpeg": picture("JPEG"),
    "progressive": picture("JPEG", progressive=True, optimize=True),
    "png": picture("PNG"),
    "tiff": picture("TIFF", compression="tiff_lzw"),
    "webp": picture("WEBP"),
    "bmp": picture("BMP"),
    "ppm": picture("PPM"),
    "gif": picture("GIF"),
}

INTERESTING = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\0\0\0\0",
    b"\x7f\xff\xff\xff",
    b"-1 ",
    b"9" * 20,
]


def npy_bytes():
    content = io.BytesIO()
    np.save(content, tile(0))
    return content.getvalue()


def tiff_bytes(planes):
    content, array = io.BytesIO(), tile(0) if planes == "separate" else tile(0).transpose(1, 2, 0)
    tifffile.imwrite(content, array, planarconfig=planes, compression="zlib", rowsperstrip=8)
    return content.getvalue()


@st.composite
def damaged(draw, content):
    """The bytes with some places overwritten, mostly early ones; pieces cut out, doubled; the end cut off."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 6))):
        if not data:
            break
        at = min(draw(st.integers(0, 600) | st.integers(0, len(data) - 1)), len(data) - 1)
        what = draw(st.sampled_from(["overwrite", "overwrite", "overwrite", "cut", "double", "end"]))
        if what == "overwrite":
            piece = draw(st.sampled_from(INTERESTING) | st.binary(min_size=1, max_size=4))
            data[at : at + len(piece)] = piece
        elif what == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif what == "double":
            data[at:at] = data[at : at + draw(st.integers(1, 64))]
        else:
            del data[at:]
    return bytes(data)


def hold(action):
    """Run it; it may raise what is documented, one line of text, and takes no longer than LONGEST."""
    began = time.process_time()
    try:
        action()
    except DOCUMENTED as error:
        assert str(error) and "\n" not in str(error)
    finally:
        assert time.process_time() - began < LONGEST


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", PICTURES)
def test_pictures(kind):
    @hypothesis.settings(max_examples=60 * (LONG or 1), **SETTINGS)
    @hypothesis.given(damaged(PICTURES[kind]))
    def run(content):
        began = time.process_time()
        header = read_header(content)
        assert bool(header.fault) == (header.height == 0 or header.width == 0)
        assert header.fault is None or header.fault.split(":")[0] in {
            "zero bytes", "not an image", "truncated", "damaged", "too large",
        } or header.fault.startswith("unsupported"), header.fault  # fmt: skip
        if header.fault is None:
            with suppress(Exception):  # Planner.decode, check and pack take anything for a bad picture
                decode_rgb(content)
        assert time.process_time() - began < LONGEST

    run()


ARRAYS = {"npy": npy_bytes(), "tiff, planes": tiff_bytes("separate"), "tiff, interleaved": tiff_bytes("contig")}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays(kind):
    @hypothesis.settings(max_examples=60 * (LONG or 1), **SETTINGS)
    @hypothesis.given(damaged(ARRAYS[kind]))
    def run(content):
        began = time.process_time()
        header = array_header(content)
        assert header.fault is None or header.fault.split(":")[0].startswith(
            ("zero bytes", "not an image", "truncated", "damaged", "too large", "unsupported")
        ), header.fault  # fmt: skip
        if header.fault is None:
            with suppress(Exception):  # anything makes a bad picture
                array = read_array(content)
                assert array.nbytes <= LARGEST
        assert time.process_time() - began < LONGEST

    run()


def use(folder: Path) -> None:
    """What training and the check of the files do with a source."""
    source = open_source(folder)
    labels, count = source.labels, len(source)
    assert labels.shape == (count,) and labels.dtype == np.int64
    assert labels.min() >= -1 and (not source.classes or labels.max() < len(source.classes))
    for index in range(min(count, 8)):
        assert source.name(index)
    assert all(name and reason for name, reason in check(source))
    planner = Planner(source, Sampler(count, 1, 0, 0, 1), STRENGTHS["light"], False)
    with suppress(BadImageError):  # where none is good
        for batch in range(min(count, 4)):
            plan = planner.plan(0, batch)
            planner.decode(int(plan.indices[0]))


def fuzz(folder: Path, name: str, content: bytes, examples: int) -> None:
    """Damage one file of a folder that opens."""
    use(folder)

    @hypothesis.settings(max_examples=examples * (LONG or 1), **SETTINGS)
    @hypothesis.given(damaged(content))
    def run(data):
        (folder / name).write_bytes(data)
        hold(lambda: use(folder))
        for path in folder.glob("*.idx"):
            if path.name != name:
                path.unlink()

    run()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["s.tar", "s.idx"])
def test_tars_and_indexes(tmp_path, name):
    (tmp_path / "s.tar").write_bytes(GOOD + member("b.jpg", jpeg()) + member("b.cls", b"1") + END)
    open_source(tmp_path)
    fuzz(tmp_path, name, (tmp_path / name).read_bytes(), 150)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["mae_fast.json", "records.bin"])
@pytest.mark.parametrize("decoded", [False, True])
def test_packed_folders(tmp_path, name, decoded):
    for number in range(3):
        (tmp_path / "in" / str(number)).mkdir(parents=True)
        (tmp_path / "in" / str(number) / "x.jpg").write_bytes(jpeg())
    pack(tmp_path / "in", tmp_path / "out", how=How(decoded=decoded))
    content = (tmp_path / "out" / name).read_bytes()
    json.loads((tmp_path / "out/mae_fast.json").read_text())
    fuzz(tmp_path / "out", name, content, 60)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("layout", [LAYOUTS[1], LAYOUTS[3]], ids=lambda layout: layout.folder)
def test_cifar(tmp_path, layout):
    write_cifar(tmp_path, layout)
    file = tmp_path / layout.folder / layout.files["train"][0]
    content = file.read_bytes()
    if layout.label_key:
        assert pickle.loads(content)
    fuzz(tmp_path / layout.folder, file.name, content, 80)
