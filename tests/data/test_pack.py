"""What `mae-fast data pack` leaves: all or nothing, also when it is killed or the disk is full; what it leaves out."""

import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from mae_fast.cli import main
from mae_fast.data import How, open_source, pack
from tests.data.bad_files import UNREADABLE, UNUSUAL, make_bad


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def noise(tmp_path):
    """Thirty pictures."""
    (tmp_path / "in").mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (400, 400, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


@pytest.mark.parametrize("decoded, number", [(False, signal.SIGKILL), (True, signal.SIGINT)])
def test_an_interrupted_pack_leaves_nothing_that_opens(noise, tmp_path, decoded, number):
    out = tmp_path / "out"
    code = (
        "import os, signal, sys; from mae_fast.data import How, pack\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it\n"
        "stop = lambda done, total: os.kill(os.getpid(), int(sys.argv[4])) if done == 10 else None\n"
        "pack(*sys.argv[1:3], shard_size=1, how=How(decoded=sys.argv[3] == 'True'), progress=stop)\n"
    )
    command = [sys.executable, "-c", code, str(noise), str(out), str(decoded), str(int(number))]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60).returncode in (-number, 130)
    assert entries(tmp_path) == ([".out.partial"] if number == signal.SIGKILL else []) + ["in"]
    with pytest.raises(FileNotFoundError):
        open_source(out)
    assert pack(noise, out, shard_size=1, how=How(decoded=decoded)) == (30, [])  # which clears away what a kill left
    assert entries(tmp_path) == ["in", "out"] and len(open_source(out)) == 30


@pytest.mark.parametrize("more", [(), ("--decoded",)])
def test_a_full_disk_is_said_and_leaves_nothing(noise, tmp_path, capsys, more):
    """A limit on the size of files: write(2) itself fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, before[1]))
    try:
        code = main(["data", "pack", str(noise), str(tmp_path / "out"), *more])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    err = capsys.readouterr().err
    assert code == 1 and entries(tmp_path) == ["in"]
    assert f"mae-fast data: out: {tmp_path}/out: File too large; nothing was written: free some space" in err


@pytest.mark.parametrize("decoded", [False, True])
def test_bad_files_are_named_and_left_out(folder, tmp_path, capsys, decoded):
    kinds = UNREADABLE | UNUSUAL
    for number, kind in enumerate(kinds):
        make_bad(kind, folder / f"{number:03d}.jpg", folder / "047.jpg")
    words = ["data", "pack", str(folder), str(tmp_path / "out"), *(["--decoded"] if decoded else [])]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    # as files the unusual ones may still be converted by training, and floats be another run's pictures
    told = {number: reason for number, (kind, reason) in enumerate(kinds.items()) if decoded or kind in UNREADABLE}
    expected = {n: reason for n, reason in told.items() if decoded or not reason.startswith("unsupported")}
    assert len(lines) == len(expected) + 1
    for line, (number, reason) in zip(lines, expected.items(), strict=False):
        assert line.startswith(f"{folder / f'{number:03d}.jpg'}: {reason}")
    assert lines[-1].startswith(f"Wrote {48 - len(expected)} images to {tmp_path / 'out'}, {len(expected)} left out (")
    assert len(open_source(tmp_path / "out")) == 48 - len(expected)
    converted = pack(folder, tmp_path / "converted", how=How(side=32, convert=True))
    assert converted[0] == 48 - len(UNREADABLE)


def test_what_cannot_be_packed_is_said(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"no image")
    words = ["data", "pack", str(tmp_path / "in"), str(tmp_path / "out")]
    assert main(words) == 1
    assert "source: " in (err := capsys.readouterr().err) and "it has no good image" in err
    assert entries(tmp_path) == ["in"]
    (tmp_path / "full" / "x").mkdir(parents=True)
    assert main([*words[:3], str(tmp_path / "full")]) == 1
    assert f"out: {tmp_path / 'full'}: is there and not empty; give a new folder" in capsys.readouterr().err
    for flag, value in (("--side", "3"), ("--shard_size", "0")):
        assert main([*words, flag, value]) == 1
        assert f"{flag}: expected at least" in capsys.readouterr().err


def test_an_empty_folder_takes_the_pack(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 30)).save(tmp_path / "in/a.jpg")
    (tmp_path / "out").mkdir()
    assert pack(tmp_path / "in", tmp_path / "out") == (1, []) and len(open_source(tmp_path / "out")) == 1
