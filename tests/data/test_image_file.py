"""Bad, odd and damaged files: recognised, named, skipped, stopped at or converted; never trained on."""

import os

import numpy as np
from PIL import Image

from mae_fast.data import check, open_source
from mae_fast.data.sources.image_file import decode_rgb, read_header
from tests.data.bad_files import UNREADABLE, UNUSUAL, make_bad, sixteen_bit_png


def test_check_lists_every_bad_file_and_no_good_one(folder):
    names = {}
    for number, (kind, reason) in enumerate((UNREADABLE | UNUSUAL).items()):
        path = folder / f"{number:03d}.jpg"
        make_bad(kind, path, folder / "047.jpg")
        names[str(path)] = reason
    steps = []
    found = check(open_source(folder), progress=lambda done, total: steps.append((done, total)))
    assert [name for name, _ in found] == sorted(names)
    for name, reason in found:
        assert reason.startswith(names[name]), (name, reason)
    assert steps[-1] == (48, 48)


def test_permission_denied_and_missing_are_reasons(folder, monkeypatch):
    source = open_source(folder)
    os.remove(folder / "001.jpg")
    real_open = open

    def refuse(path, *arguments):  # the tests may run as root, whom chmod does not stop
        if str(path).endswith("002.jpg"):
            raise PermissionError(13, "Permission denied")
        return real_open(path, *arguments)

    monkeypatch.setattr("mae_fast.data.sources.image_file.open", refuse, raising=False)
    assert read_header(source.encoded(1)).fault.startswith("missing")
    assert read_header(source.encoded(2)).fault == "permission denied"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(values).save(tmp_path / "grey.png")
    (tmp_path / "colour.png").write_bytes(sixteen_bit_png(np.stack([values] * 3, axis=-1)))
    for name in ("grey.png", "colour.png"):
        pixels = np.asarray(decode_rgb(str(tmp_path / name))).astype(float)
        np.testing.assert_allclose(pixels, np.stack([values / 257.0] * 3, axis=-1), atol=1)
