"""Weights from strangers: archives that unpack to any size, headers that claim it, settings of the deepest nesting."""

import io
import json
import resource
import struct
import tarfile
import zipfile

import pytest
import torch

from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained


def tensor(shape, start=0, end=4, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


HEADERS = {
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header past the end": struct.pack("<Q", 10**7) + b"{}",
    "lists in lists": b"[" * 10**6,
    "maps in maps": b'{"a":' * 10**6,
    "no text": b"\xff\xfe{}",
    "a tensor past the end": {"w": tensor([2**40], 0, 2**42)},
    "a negative shape": {"w": tensor([-1])},
    "a shape that overflows": {"w": tensor([2**63, 2**63])},
    "a shape of other bytes": {"w": tensor([7])},
    "places that overlap": {"v": tensor([1]), "w": tensor([1])},
    "an end before the start": {"w": tensor([1], 4, 0)},
    "a type of its own": {"w": tensor([1], dtype="X")},
    "settings that are a list": {"w": tensor([1]), "__metadata__": {"mae_fast": "[1]"}},
    "settings that are none": {"w": tensor([1]), "__metadata__": {"mae_fast": "hello"}},
    "deep settings": {"w": tensor([1]), "__metadata__": {"mae_fast": "[" * 10**6}},
}


@pytest.mark.parametrize("what", HEADERS)
def test_hostile_safetensors_are_refused(tmp_path, what):
    header, path = HEADERS[what], tmp_path / "w.safetensors"
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    whole = isinstance(header, bytes) and what.startswith("a header")
    path.write_bytes((b"" if whole else struct.pack("<Q", len(text))) + text + b"1234")
    with pytest.raises(CheckpointError, match=r"w\.safetensors: (damaged|expected a dict)") as error:
        load_pretrained(path)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("inside", ["data.pkl", "data/0"])
def test_an_archive_that_unpacks_to_gigabytes_is_refused(tmp_path, inside):
    torch.save({"model": {"w": torch.zeros(10)}}, tmp_path / "plain.pth")
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w") as bomb:
        for member in plain.infolist():
            here = member.filename.endswith(inside)
            content = b"\x80\x02}q\0" + bytes(300_000_000) if here else plain.read(member)
            bomb.writestr(member.filename, content, zipfile.ZIP_DEFLATED if here else zipfile.ZIP_STORED)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=rf"bomb\.pth: refused, '.*{inside}' in it is compressed"):
        load_file(tmp_path / "bomb.pth")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB
    assert load_file(tmp_path / "plain.pth")["model"]["w"].shape == (10,)


@pytest.mark.parametrize("text", ["[" * 10**6, '{"a":' * 10**6, "[1]", "hello", b"\xff\xfe\xff"])
def test_hostile_settings_are_named(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"config\.json: (damaged|expected a dict)"):
        load_pretrained(tmp_path)


def test_a_table_of_2_27_places(tmp_path):
    (tmp_path / "c.pth").write_bytes(b"\x80\x02}r\0\0\0\x08.")
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        load_file(tmp_path / "c.pth")


def test_torchs_oldest_archive_is_not_unpacked(tmp_path):
    """A tar, which torch.load would extract into a folder; members may be called anything."""
    inside = b"\x80\x02K\x00."
    with tarfile.open(tmp_path / "c.pth", "w") as archive:
        for name in ("storages", "../escaped", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(inside)
            archive.addfile(info, io.BytesIO(inside))
    with pytest.raises(CheckpointError, match=r"c\.pth: damaged, or not a torch checkpoint \(Cannot use"):
        load_file(tmp_path / "c.pth")
    assert [path.name for path in tmp_path.rglob("*")] == ["c.pth"]
