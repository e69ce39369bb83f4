"""Files that run code, are broken, or are cut off while they are written."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest
import torch

import mae_fast
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import CheckpointError, load_file, load_pretrained
from tests.files.test_checkpoint import TINY


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**TINY)


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/mae_fast_was_here",)


def test_a_pickle_that_runs_code_is_refused_by_name(tmp_path):
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"evil\.pth: refused.*(posix|os)\.system"):
        load_pretrained(tmp_path / "evil.pth")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match=r"raw\.pth"):
        load_file(tmp_path / "raw.pth")
    assert not os.path.exists("/tmp/mae_fast_was_here")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 a broken archive"])
def test_broken_files_are_named(tmp_path, content):
    (tmp_path / "c.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        load_pretrained(tmp_path / "c.pth")


def test_truncated_and_foreign_files_are_named(tmp_path, model):
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth")
    data = (tmp_path / "c.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    torch.save({"encoder.weight": torch.zeros(3)}, tmp_path / "foreign.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name in ("cut", "foreign", "list"):
        with pytest.raises(CheckpointError, match=rf"{name}\.pth"):
            load_pretrained(tmp_path / f"{name}.pth")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_pretrained(tmp_path / "nowhere.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_named_whatever_torch_raises(tmp_path, model, zipped):
    torch.save({"model": model.state_dict()}, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    data, draw = (tmp_path / "c.pth").read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(data[: draw.choice([len(data), draw.randrange(len(data))])])
        for _ in range(draw.randrange(30)):
            damaged[draw.randrange(min(len(damaged), 4000))] = draw.randrange(256)
        (tmp_path / "bad.pth").write_bytes(damaged)
        with suppress(CheckpointError):  # or only numbers changed
            load_file(tmp_path / "bad.pth")


def test_settings_that_are_no_dict_are_named(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"config\.json: expected a dict"):
        load_pretrained(tmp_path)


def test_keys_that_are_no_text_are_foreign(tmp_path):
    torch.save({1: torch.zeros(2)}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: not a Masked Autoencoder"):
        load_pretrained(tmp_path / "c.pth")


def test_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    save_atomic({"a": 1}, tmp_path / "c.pth")
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_atomic({"a": lambda: 0}, tmp_path / "c.pth")
    assert load_file(tmp_path / "c.pth") == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_kill_during_save_leaves_a_whole_file(tmp_path):
    code = (
        "import sys, torch; from mae_fast.files.atomic import save_atomic\n"
        "for i in range(10**9):\n"
        "    save_atomic({'i': i, 'x': torch.full((500_000,), float(i))}, sys.argv[1])\n"
        "    print(i, flush=True)\n"
    )
    path = tmp_path / "c.pth"
    for attempt in range(6):
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
        child.stdout.readline()
        time.sleep(random.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        content = load_file(path)
        assert (content["x"] == content["i"]).all(), attempt
