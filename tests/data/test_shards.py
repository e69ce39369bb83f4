"""Tar shards and the cache of pixels: packed, read at random, the same pictures as the files, and by other programs."""

import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast.data import How, check, open_source, pack
from mae_fast.data.sources import tar_index
from mae_fast.data.sources.decoded import Decoded
from mae_fast.data.sources.shards import Shards
from tests.data.batches import loader, mean_difference


@pytest.fixture(scope="module")
def small(tmp_path_factory, photos):
    """Forty photographs in two classes, and ten to validate."""
    folder = tmp_path_factory.mktemp("small")
    for number in range(48):
        target = folder / ("val/a" if number >= 40 else f"train/{'ab'[number % 2]}") / f"{number:03d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(photos / f"{number:03d}.jpg").save(target, quality=100)  # large: forty files make several shards
    return folder


@pytest.fixture(scope="module")
def shards(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "shards"
    assert pack(small, out, shard_size=1) == (48, [])
    return out


def test_shards_hold_the_files_as_they_are(small, shards):
    for split, count in (("train", 40), ("val", 8)):
        files, packed = open_source(small, split), open_source(shards, split)
        assert isinstance(packed, Shards) and len(packed) == count and packed.classes == files.classes
        assert packed.labels.tolist() == files.labels.tolist() and packed.labels.dtype == np.int64
        for index in range(count):
            assert packed.encoded(index) == Path(files.encoded(index)).read_bytes()
    tars = sorted(path.name for path in (shards / "train").glob("*.tar"))
    assert tars == [f"shard-{i:06d}.tar" for i in range(len(tars))] and len(tars) > 1
    assert all((shards / "train" / name).stat().st_size <= 2**20 for name in tars)
    assert open_source(shards).name(1) == f"{shards}/train/shard-000000.tar: 00000001_002.jpg"
    assert check(open_source(shards)) == []


@pytest.mark.parametrize("decoded", [False, True])
def test_batches_are_those_of_the_files(small, shards, tmp_path, backend, decoded):
    packed = shards
    if decoded:
        packed = tmp_path / "cache"
        pack(small, packed, how=How(decoded=True))
        assert isinstance(open_source(packed), Decoded) and check(open_source(packed)) == []
    both = [list(loader(open_source(folder), backend, augment="strong").epoch(1)) for folder in (small, packed)]
    assert len(both[0]) == len(both[1]) == 2
    for (a, labels_a), (b, labels_b) in zip(*both, strict=True):
        assert torch.equal(labels_a, labels_b)
        # DALI and Pillow each decode by libjpeg-turbo, of different versions
        assert torch.equal(a, b) or (decoded and backend == "dali" and mean_difference(a, b).max() < 1)


def test_dalis_own_reader_reads_shards_and_index(small, shards):
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    tars = sorted((shards / "train").glob("*.tar"))

    @pipeline_def(batch_size=5, num_threads=1, device_id=None)
    def reader():
        return tuple(
            fn.readers.webdataset(
                paths=[str(path) for path in tars],
                index_paths=[str(path.with_suffix(".idx")) for path in tars],
                ext=["jpg", "cls"],
                missing_component_behavior="error",
            )
        )

    pipe, ours = reader(), open_source(shards)
    pipe.build()
    for start in range(0, 40, 5):
        images, classes = pipe.run()
        for slot, index in enumerate(range(start, start + 5)):
            assert images.at(slot).tobytes() == ours.encoded(index)
            assert int(classes.at(slot).tobytes()) == ours.labels[index]


def test_the_index_is_the_one_of_wds2idx(shards, tmp_path):
    wds2idx = pytest.importorskip("wds2idx")
    tar = shards / "train" / "shard-000000.tar"
    with wds2idx.IndexCreator(str(tar), str(tmp_path / "made.idx"), verbose=False) as creator:
        creator.create_index()
    assert (tmp_path / "made.idx").read_text() == tar.with_suffix(".idx").read_text()
    assert tar_index.from_headers(tar) == tar_index.read(tar.with_suffix(".idx"), tar.stat().st_size)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_of_other_programs_are_indexed_once(small, tmp_path, format):
    """As WebDataset's writer makes them: times with fractions, hence pax headers; long names; files of no interest."""
    files = open_source(small)
    with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for index in range(6):
            long = "n" * (150 if format != tarfile.USTAR_FORMAT and index == 3 else 50)
            for ext, content in {
                "JPG": Path(files.encoded(index)).read_bytes(), "cls": b"%d\n" % (index % 3), "json": b"{}",
            }.items():  # fmt: skip
                info = tarfile.TarInfo(f"folder/{long}{index}.{ext}")
                info.size, info.mtime = len(content), 1.5 if format == tarfile.PAX_FORMAT else 1
                with open(tmp_path / "part", "wb") as file:
                    file.write(content)
                with open(tmp_path / "part", "rb") as file:
                    tar.addfile(info, file)
    (tmp_path / "part").unlink()
    for opened in (open_source(tmp_path), open_source(tmp_path)):
        assert opened.labels.tolist() == [0, 1, 2, 0, 1, 2] and opened.classes == ["0", "1", "2"]
        assert all(opened.encoded(i) == Path(files.encoded(i)).read_bytes() for i in range(6))
        assert (tmp_path / "x.idx").is_file() and check(opened) == []
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert open_source(tmp_path).classes == ["a", "b", "c"]


def test_a_source_travels_to_other_processes(shards, tmp_path):
    pack(shards, tmp_path / "cache", how=How(decoded=True))
    for folder in (shards, tmp_path / "cache"):
        source = open_source(folder)
        first = source.encoded(0)
        text = pickle.dumps(source)
        assert len(text) < 10_000
        again = pickle.loads(text)
        assert np.array_equal(again.encoded(0), first) if folder != shards else again.encoded(0) == first
    workers = list(loader(open_source(shards), "pillow", num_workers=2).epoch(0))
    alone = list(loader(open_source(shards), "pillow").epoch(0))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(workers, alone, strict=True))


def test_more_shards_than_descriptors(shards, monkeypatch):
    wanted = [open_source(shards).encoded(i) for i in range(40)]
    monkeypatch.setattr("mae_fast.data.sources.shards.OPEN", 1)
    source = open_source(shards)
    assert [source.encoded(i) for i in range(40)] == wanted and len(source._files) == 1


def test_packing_twice_makes_the_same_bytes(small, shards, tmp_path):
    pack(small, tmp_path / "again", shard_size=1)
    for path in sorted(shards.rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(shards)).read_bytes(), path


def test_smaller_sides(small, tmp_path):
    Image.new("RGB", (60, 90)).save(tmp_path / "small.png")
    for number in range(3):
        shutil.copy(open_source(small).encoded(number), tmp_path / f"{number}.jpg")
    pack(tmp_path, tmp_path / "out/128", how=How(side=128))
    source = open_source(tmp_path / "out/128")
    (tmp_path / "shrunk").mkdir()
    for index in range(4):
        name = "x.png" if index == 3 else f"{index}.jpg"
        (tmp_path / "shrunk" / name).write_bytes(source.encoded(index))
        assert min(Image.open(tmp_path / "shrunk" / name).size) == (60 if index == 3 else 128)
    assert source.encoded(3) == (tmp_path / "small.png").read_bytes() and source.classes == []
    both = [
        list(loader(open_source(folder), batch_size=4).epoch(0))
        for folder in (tmp_path / "shrunk", tmp_path / "out/128")
    ]
    assert torch.equal(both[0][0][0], both[1][0][0]) and both[1][0][1] is None


def test_cifar_packs_to_png(tmp_path):
    from tests.data.test_sources import LAYOUTS, write_cifar

    images, labels = write_cifar(tmp_path / "in", LAYOUTS[0])
    assert pack(tmp_path / "in", tmp_path / "out")[0] == len(images) + 3
    source = open_source(tmp_path / "out")
    assert source.labels.tolist() == labels and len(open_source(tmp_path / "out", "val")) == 3
    (tmp_path / "x.png").write_bytes(source.encoded(4))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), images[4])
