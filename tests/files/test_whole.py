"""A damaged checkpoint is told from a whole one: any bit, anywhere in the file."""

import random

import pytest
import torch

from mae_fast.files.checkpoint import CheckpointError, load_file
from mae_fast.files.whole import damage

CONTENT = {"model": {"a": torch.arange(40.0), "b": torch.zeros(3, 2)}, "epoch": 7}


@pytest.fixture
def file(tmp_path):
    torch.save(CONTENT, tmp_path / "checkpoint.pth")
    return tmp_path / "checkpoint.pth"


def read(path):
    """What torch reads from it, None where it refuses."""
    try:
        content = load_file(path)
        return content["model"]["a"].tolist(), content["model"]["b"].tolist(), content["epoch"], content.keys()
    except (CheckpointError, KeyError, TypeError, AttributeError):
        return None


def test_a_whole_one(file):
    assert damage(file) == ""


def test_a_flipped_bit_is_found_wherever_it_changes_what_is_read(file):
    """One bit of every byte: of weights, pickle and sums all are found; of dates and the like only what matters."""
    whole, data, rng = read(file), bytearray(file.read_bytes()), random.Random(0)
    harmless = 0
    for at in range(len(data)):
        bit = 1 << rng.randrange(8)
        data[at] ^= bit
        file.write_bytes(data)
        if not damage(file):
            harmless += 1
            assert read(file) == whole, f"byte {at}, bit {bit}"
        data[at] ^= bit
    assert 0 < harmless < len(data) / 2


def test_a_flipped_bit_of_a_weight_which_torch_does_not_see(file):
    data = bytearray(file.read_bytes())
    at = data.find(CONTENT["model"]["a"].numpy().tobytes())
    for offset in range(160):
        for bit in range(8):
            data[at + offset] ^= 1 << bit
            file.write_bytes(data)
            assert "the checksum of " in damage(file) or "Bad CRC" in damage(file)
            data[at + offset] ^= 1 << bit
    data[at] ^= 1
    file.write_bytes(data)
    assert read(file) is not None  # that is why


def test_a_record_that_a_bit_makes_a_folder_whose_weights_torch_does_not_even_read(file):
    data = bytearray(file.read_bytes())
    name = data.rfind(b"checkpoint/data/0")
    data[name - 8] ^= 0x10  # the attributes, in the archive's directory
    file.write_bytes(data)
    assert damage(file) == "damaged: checkpoint/data/0 is marked as a folder"


def test_every_truncation_is_found(file):
    data = file.read_bytes()
    for length in range(0, len(data), 3):
        file.write_bytes(data[:length])
        assert damage(file), length


def test_other_files(tmp_path):
    other = tmp_path / "other.pth"
    torch.save(CONTENT, other, _use_new_zipfile_serialization=False)
    assert damage(other) == "not an archive of torch.save"
    with pytest.raises(FileNotFoundError):
        damage(tmp_path / "none.pth")
