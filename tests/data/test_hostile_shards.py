"""Tars, indexes and packed folders from strangers: refused with a reason, and nothing is written anywhere."""

import json
import os
import shutil

import numpy as np
import pytest

from mae_fast.cli import main
from mae_fast.data import How, check, make_loader, open_source, pack
from tests.data.hostile_tars import END, GOOD, REFUSED, jpeg, member


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_tars_are_refused(tmp_path, what):
    content, reason = REFUSED[what]
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "s.tar").write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=reason) as error:
        open_source(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)
    assert {path.name for path in tmp_path.rglob("*")} <= {"in", "s.tar", "s.idx"}


@pytest.mark.parametrize(
    "name", ["/etc/x/b.jpg", "../../../b.jpg", "c/../../b.jpg", "\x1b[2Jb.jpg", "b\udcff\udcfe.jpg"]
)
def test_a_name_is_no_path(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/s.tar").write_bytes(member(name, jpeg()) + END)
    source = open_source(tmp_path / "in")
    assert source.encoded(0) == jpeg() and check(source) == []
    shown = source.name(0)
    assert shown.isprintable() and shown.encode() and shown.endswith(".jpg")
    pack(tmp_path / "in", tmp_path / "out")
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["in", "out"] and not os.path.exists("/etc/x")
    inside = open_source(tmp_path / "out").name(0).rpartition(": ")[2]
    assert inside.startswith("00000000_") and "/" not in inside and ".." not in inside


SIZE = len(GOOD + END)
INDEXES = {
    "a negative offset": "v1.2 1\njpg -512 100 a.jpg\n",
    "an offset past the end": f"v1.2 1\njpg {SIZE} 100 a.jpg\n",
    "a size past the end": f"v1.2 1\njpg 512 {SIZE} a.jpg\n",
    "an offset inside of a block": "v1.2 1\njpg 513 100 a.jpg\n",
    "an offset of 10^30": f"v1.2 1\njpg {10**30} 100 a.jpg\n",
    "the same place twice": "v1.2 2\njpg 512 640 a.jpg\njpg 512 640 b.jpg\n",
    "places that overlap": "v1.2 2\njpg 512 1024 a.jpg\njpg 1536 10 b.jpg\n",
    "fewer lines than it says": "v1.2 2\njpg 512 640 a.jpg\n",
    "10^12 samples": f"v1.2 {10**12 - 1}\njpg 512 640 a.jpg\n",
    "words in place of numbers": "v1.2 1\njpg a b a.jpg\n",
    "half a line": "v1.2 1\njpg 512\n",
    "another version": "v9.9 1\njpg 512 640 a.jpg\n",
    "nothing": "",
    "bytes": "\0\1\2",
}


@pytest.mark.parametrize("what", INDEXES)
def test_hostile_indexes_are_refused(tmp_path, what):
    (tmp_path / "s.tar").write_bytes(GOOD + END)
    (tmp_path / "s.idx").write_text(INDEXES[what])
    with pytest.raises(ValueError, match=r"s\.idx: .*delete it, and it is made again$"):
        open_source(tmp_path)
    (tmp_path / "s.idx").unlink()
    assert len(open_source(tmp_path)) == 1 and len(open_source(tmp_path)) == 1


def test_an_index_of_another_tar_is_found_at_each_image(tmp_path, backend):
    """In range, so only the headers in the tar tell: the picture is bad, the others are trained on."""
    images = [jpeg((24, 20 + 8 * number), number) for number in range(4)]
    (tmp_path / "s.tar").write_bytes(b"".join(member(f"{i}.jpg", image) for i, image in enumerate(images)) + END)
    source = open_source(tmp_path)
    index = tmp_path / "s.idx"
    lines = index.read_text().splitlines()
    ext, offset, size, name = lines[2].split()
    lines[2] = f"{ext} {offset} {int(size) - 1} {name}"
    index.write_text("\n".join(lines) + "\n")
    source = open_source(tmp_path)
    assert [reason.split(";")[0] for _, reason in check(source)] == [
        "damaged: not what s.idx says", "damaged: the index says otherwise than the tar",
    ]  # fmt: skip
    tested = make_loader(source, 2, 16, backend=backend, num_workers=1 if backend == "dali" else 0)
    assert len(list(tested.epoch(0))) == 2 and list(tested.bad_images) == [f"{tmp_path}/s.tar: 1.jpg"]


def test_a_tar_that_shrinks_while_training_runs_is_survived(tmp_path, backend):
    for number in range(12):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number}.jpg").write_bytes(jpeg((40, 40), number * 20))
    pack(tmp_path / "in", tmp_path / "out")
    tested = make_loader(
        open_source(tmp_path / "out"), 4, 16, backend=backend, num_workers=1 if backend == "dali" else 0
    )
    assert len(list(tested.epoch(0))) == 3
    tar = tmp_path / "out/shard-000000.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    assert len(list(tested.epoch(1))) == 3
    assert 4 <= len(tested.bad_images) <= 7 and all(r.startswith("truncated") for r in tested.bad_images.values())


@pytest.fixture
def packed(tmp_path, request):
    for number in range(6):
        path = tmp_path / "in" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg((40, 40), number * 20))
    pack(tmp_path / "in", tmp_path / "out", how=How(decoded=request.param == "decoded"))
    return tmp_path / "out"


@pytest.mark.parametrize("packed", ["shards", "decoded"], indirect=True)
def test_a_flipped_bit_is_named(packed, capsys):
    content = next(path for name in ("shard-000000.tar", "pixels.bin") if (path := packed / name).is_file())
    source = open_source(packed)
    assert main(["data", "check", str(packed)]) == 0
    data = bytearray(content.read_bytes())
    third = source.encoded(3)
    at = data.index(third if isinstance(third, bytes) else third.tobytes()) + len(third) // 2
    data[at] ^= 4
    content.write_bytes(data)
    assert main(["data", "check", str(packed)]) == 1
    out = capsys.readouterr().out
    assert f"{open_source(packed).name(3)}: damaged" in out and "6 images, 1 bad (1 damaged)" in out


DESCRIPTIONS = {
    "no JSON": "hello",
    "deep": "[" * 100_000,
    "a list": "[]",
    "classes of numbers": {"classes": [1, 2]},
    "classes that are a text": {"classes": "ab"},
    "files elsewhere": {"files": {"records.bin": 48, "../x.tar": 3}},
    "files with absolute names": {"files": {"records.bin": 48, "/etc/passwd": 3}},
    "files that are a list": {"files": ["records.bin"]},
    "no records": {"files": {}},
    "of another kind": {"holds": "rocks"},
}


@pytest.mark.parametrize("what", DESCRIPTIONS)
@pytest.mark.parametrize("packed", ["shards", "decoded"], indirect=True)
def test_hostile_descriptions_are_refused(packed, what):
    path, bad = packed / "mae_fast.json", DESCRIPTIONS[what]
    path.write_text(bad if isinstance(bad, str) else json.dumps(json.loads(path.read_text()) | bad))
    with pytest.raises(ValueError, match=r"mae_fast\.json: not as mae-fast data pack writes it"):
        open_source(packed)
    with open(path, "ab") as file:
        file.truncate(2**25)
    with pytest.raises(ValueError, match=r"mae_fast\.json: 33554432 bytes, at most"):
        open_source(packed)


@pytest.mark.parametrize("packed", ["shards", "decoded"], indirect=True)
def test_files_that_are_missing_or_cut_are_named(packed):
    for path in sorted(packed.glob("*.[tb]*")):
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        with pytest.raises(ValueError, match=rf"{path.name}: \d+ bytes, mae_fast.json says \d+; copy it again"):
            open_source(packed)
        path.unlink()
        with pytest.raises(ValueError, match=rf"{path.name}: missing; copy it again"):
            open_source(packed)
        path.write_bytes(content)
    assert len(open_source(packed)) == 6


@pytest.mark.parametrize("packed", ["shards", "decoded"], indirect=True)
@pytest.mark.parametrize(
    "field, value",
    [("label", 2), ("label", -1), ("offset", -1), ("offset", 2**62), ("height", 2**31 - 1), ("width", 0)],
)
def test_records_out_of_range_are_refused(packed, field, value):
    from mae_fast.data.sources import packed as module

    kind = module.DECODED if (packed / "pixels.bin").exists() else module.SHARDS
    if field not in kind.names:
        return
    records = np.fromfile(packed / "records.bin", kind)
    records[field][3] = value
    records.tofile(packed / "records.bin")
    with pytest.raises(ValueError, match=r"records\.bin: (labels|pictures) outside of .*; pack the data again"):
        open_source(packed)


def test_compressed_tars_are_refused(tmp_path):
    (tmp_path / "s.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"s\.tar\.gz: compressed, so no image can be read without those before it"):
        open_source(tmp_path)
    shutil.copy(tmp_path / "s.tar.gz", tmp_path / "a.jpg")  # beside images an archive is no business of ours
    assert len(open_source(tmp_path)) == 1
