"""YAML from strangers, for --config: no objects, no billion laughs, no gigabytes."""

import time

import pytest

from mae_fast.cli import main

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{c}: &{c} [{', '.join([f'*{chr(ord(c) - 1)}'] * 10)}]\n" for c in "bcdefghij"
)
FILES = {
    "an object": ("model: !!python/object/apply:os.system ['touch MARK']\n", "could not determine a constructor"),
    "a module": ("model: !!python/module:os\n", "could not determine a constructor"),
    "a billion laughs": (LAUGHS + "model: *j\n", "an alias, *a; write the value itself"),
    "a list in itself": ("model: &a [*a]\n", "an alias, *a"),
    "merged maps": ("x: &x {model: a}\n<<: *x\n", "an alias, *x"),
    "deep lists": ("model: " + "[" * 100_000, "more than 20 values inside of each other"),
    "deep maps": ("model: " + "{a: " * 100_000, "more than 20 values inside of each other"),
    "a long number": ("epochs: " + "9" * 5000, "not YAML"),
    "no date": ("model: 2001-99-99\n", "not YAML"),
    "4 MB": ("# " + "x" * 2**22, "larger than 1048576 bytes"),
    "bytes": ("model: \0\1\2", "not YAML"),
}


@pytest.mark.parametrize("what", FILES)
def test_hostile_settings_are_refused(tmp_path, capsys, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    text, reason = FILES[what]
    (tmp_path / "c.yaml").write_text(text)
    began = time.process_time()
    assert main(["pretrain", f"--config={tmp_path / 'c.yaml'}"]) == 1
    assert time.process_time() - began < 10
    err = capsys.readouterr().err
    assert "--config: " in err and "c.yaml: " in err and reason in err and len(err) < 10_000
    assert not (tmp_path / "MARK").exists()


def test_bytes_that_are_no_text(tmp_path, capsys):
    (tmp_path / "c.yaml").write_bytes(b"model: \xff\xfe\xff")
    assert main(["pretrain", f"--config={tmp_path / 'c.yaml'}"]) == 1
    assert "c.yaml: not YAML" in capsys.readouterr().err
