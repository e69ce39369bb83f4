"""What the tests of this folder share."""

import random
import shutil

import pytest

from mae_fast.data import open_source, write_sample_photos


@pytest.fixture(params=["pillow", "dali"])
def backend(request):
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return request.param


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """48 photographs in one flat folder, 000.jpg to 047.jpg."""
    folder = tmp_path_factory.mktemp("photos")
    tiles = sorted(path for path in write_sample_photos(folder / "all") if "train" in path.parts)
    (folder / "flat").mkdir()
    for number, path in enumerate(random.Random(0).sample(tiles, 48)):
        shutil.copy(path, folder / "flat" / f"{number:03d}.jpg")
    return folder / "flat"


@pytest.fixture
def folder(photos, tmp_path):
    """A copy of the photographs that a test may damage."""
    return shutil.copytree(photos, tmp_path / "images")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_sample_photos(folder)
    return open_source(folder)
