"""Loaders of CIFAR and of bytes, and their labels."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image

from mae_fast.data import make_loader, open_source
from mae_fast.data.sources.cifar import Cifar
from tests.data.batches import images, loader, mean_difference


def cifar(tmp_path, count=40):
    from tests.data.test_sources import LAYOUTS, write_cifar

    write_cifar(tmp_path, LAYOUTS[1], per_file=count)
    return open_source(tmp_path)


@pytest.mark.parametrize("image_size", [32, 48])
@pytest.mark.parametrize("strength", ["light", "strong"])
def test_cifar_by_both_loaders(tmp_path, image_size, strength):
    pytest.importorskip("nvidia.dali")
    source = cifar(tmp_path)
    assert isinstance(source, Cifar)
    both = [
        list(images(loader(source, name, image_size=image_size, augment=strength).epoch(0)))
        for name in ("dali", "pillow")
    ]
    assert len(both[0]) == 2
    for a, b in zip(*both, strict=True):
        assert a.shape == (16, image_size, image_size, 3) and mean_difference(a, b).max() < 2


def test_too_few_images_names_both_numbers(tmp_path):
    with pytest.raises(ValueError, match=r"40 images .* 24 on each of 2 processes \(48\); lower batch_size to 20"):
        loader(cifar(tmp_path), batch_size=24, world_size=2)


@pytest.mark.parametrize(
    "name,value", [("augment", "wild"), ("backend", "opencv"), ("on_bad_image", "ignore"), ("rank", 1)]
)
def test_wrong_arguments_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name}: expected .* got '?{value}'?"):
        make_loader(cifar(tmp_path), 4, 32, **{name: value})


def test_without_dali_pillow_serves(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    without = lambda name, *rest: None if "nvidia" in name else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", without)
    source = cifar(tmp_path)
    assert make_loader(source, 4, 32).backend == "pillow"
    with pytest.raises(ImportError, match="pip install nvidia-dali"):
        make_loader(source, 4, 32, backend="dali")


class Packed:
    """A folder's files as bytes, as an archive has them."""

    holds = "bytes"

    def __init__(self, folder):
        self.folder, self.labels, self.classes = folder, folder.labels, folder.classes

    def __len__(self):
        return len(self.folder)

    def name(self, index):
        return f"archive: {index}"

    def encoded(self, index):
        return Path(self.folder.encoded(index)).read_bytes()


def test_a_source_of_bytes_gives_what_its_files_give(source, backend):
    files, packed = (loader(s, backend).epoch(1) for s in (source, Packed(source)))
    for (a, labels_a), (b, labels_b) in zip(files, packed, strict=True):
        assert torch.equal(a, b) and torch.equal(labels_a, labels_b)


def test_a_source_of_bytes_skips_bad_images_and_converts_others(tmp_path, backend):
    for i in range(6):
        Image.new("RGB", (20, 20), (40 * i, 0, 0)).save(tmp_path / f"{i}.png")
    Image.new("RGB", (20, 20)).save(tmp_path / "6.bmp")  # which DALI is never given
    (tmp_path / "7.jpg").write_bytes(b"no image")
    tested = loader(Packed(open_source(tmp_path)), backend, batch_size=4)
    batches = list(tested.epoch(0))
    assert all(labels is None for _, labels in batches) and len(batches) == 2
    assert list(tested.bad_images.values()) == ["not an image"]


def test_labels_are_those_of_the_images(tmp_path, backend):
    """Pictures of one colour, which tells their class."""
    for label, name in enumerate(("dark", "light")):
        for i in range(6):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (20, 20), (200 * label,) * 3).save(path)
    (tmp_path / "dark" / "3.png").write_bytes(b"")  # another takes its place, with its own label
    tested = loader(open_source(tmp_path), backend, batch_size=4)
    for number in range(3):
        for imgs, labels in tested.epoch(number):
            assert labels.dtype == torch.int64 and labels.tolist() == [int(x > 100) for x in imgs[:, 0, 0, 0]]
