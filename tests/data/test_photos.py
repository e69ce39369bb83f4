"""The sample photographs from the scikit-image wheel."""

import importlib.util

import pytest
from PIL import Image

from mae_fast.data import check, open_source, write_sample_photos


def test_photos(tmp_path):
    paths = write_sample_photos(tmp_path)
    train, val = open_source(tmp_path), open_source(tmp_path, split="val")
    assert 150 <= len(train) <= 300 and len(val) == 13 and len(paths) == len(train) + len(val)
    assert "astronaut" in train.classes and len(train.classes) == 13
    for index in range(0, len(train), 20):
        with Image.open(train.encoded(index)) as image:
            assert image.size == (256, 256) and image.format == "JPEG"
    assert check(train) == [] and check(val) == []

    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}
    paths[0].unlink()
    assert write_sample_photos(tmp_path) == paths
    assert paths[0].read_bytes() == before[paths[0]][0]  # the same again
    assert all(path.stat().st_mtime_ns == before[path][1] for path in paths[1:])  # and nothing else written


def test_missing_scikit_image_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        write_sample_photos(tmp_path)
