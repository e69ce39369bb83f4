"""The loaders: reproducible, resumable, the same by DALI and by Pillow, without copies."""

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast.data import make_loader, open_source, write_sample_photos
from mae_fast.data.sources.cifar import Cifar


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    write_sample_photos(folder)
    return open_source(folder)


@pytest.fixture(params=["pillow", "dali"])
def backend(request):
    if request.param == "dali":
        pytest.importorskip("nvidia.dali")
    return request.param


def loader(source, backend="pillow", **arguments):
    arguments = {"batch_size": 16, "image_size": 48, "num_workers": 2 if backend == "dali" else 0} | arguments
    return make_loader(source, backend=backend, **arguments)


def mean_difference(a, b):
    """Per picture, of 255."""
    return (a.float() - b.float()).abs().mean(dim=(1, 2, 3))


def images(batches):
    """Without the labels."""
    for imgs, _ in batches:
        yield imgs


def test_batches_are_uint8_hwc(source, backend):
    tested = loader(source, backend, image_size=(32, 64))
    assert tested.backend == backend and len(tested) == len(source) // 16
    batches = list(images(tested.epoch(0)))
    assert len(batches) == len(tested)
    assert {(batch.shape, batch.dtype) for batch in batches} == {((16, 32, 64, 3), torch.uint8)}
    assert all(batch.is_contiguous() for batch in batches)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_depends_on_its_number_and_the_seed_only(source, backend, num_workers):
    tested = loader(source, backend, num_workers=num_workers)
    first, other = list(images(tested.epoch(0))), list(images(tested.epoch(1)))
    again = list(images(loader(source, backend, num_workers=1).epoch(0)))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, images(tested.epoch(0)), strict=True))
    assert not torch.equal(first[0], other[0])
    assert not torch.equal(first[0], next(images(loader(source, backend, seed=1).epoch(0))))


def test_start_batch_continues_exactly(source, backend):
    tested = loader(source, backend)
    whole = list(images(tested.epoch(2)))
    rest = list(images(loader(source, backend).epoch(2, start_batch=4)))
    assert len(rest) == len(whole) - 4
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))
    assert list(tested.epoch(2, start_batch=len(tested))) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_leaving_an_epoch_early_leaves_nothing_behind(source, backend, num_workers):
    tested = loader(source, backend, num_workers=num_workers)
    expected = list(images(loader(source, backend).epoch(1)))
    left = images(tested.epoch(0))
    next(left)
    if num_workers:
        left.close()  # else: still open when the next epoch starts
    assert all(torch.equal(a, b) for a, b in zip(expected, images(tested.epoch(1)), strict=True))
    left.close()
    half = images(tested.epoch(0))
    next(half)
    assert all(torch.equal(a, b) for a, b in zip(expected, images(tested.epoch(1)), strict=True))


@pytest.mark.parametrize("where", ["raise ValueError('stop here')", "keep = epoch"])
def test_a_program_may_end_in_the_middle_of_an_epoch(source, backend, where):
    program = f"""
from mae_fast.data import make_loader, open_source
loader = make_loader(open_source({str(source.root)!r}), 16, 48, backend={backend!r}, num_workers=2)
epoch = loader.epoch(0)
for batch in epoch:
    {where}
    break
print("end reached")
"""
    start = time.time()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert ("end reached" in done.stdout) != ("raise" in where), done.stderr
    assert done.returncode == (1 if "raise" in where else 0) and "Fatal" not in done.stderr, done.stderr
    assert time.time() - start < 40


def test_ranks_share_the_epoch(source, backend):
    ranks = [loader(source, backend, rank=rank, world_size=2) for rank in range(2)]
    orders = [set(rank._engine.planner.sampler.order(0).tolist()) for rank in ranks]
    assert orders[0] | orders[1] == set(range(len(source))) and len(orders[0] & orders[1]) <= 1
    first, second = (next(images(rank.epoch(0))) for rank in ranks)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("strength", ["light", "medium", "strong"])
def test_dali_and_pillow_give_the_same_pixels(source, strength):
    pytest.importorskip("nvidia.dali")
    both = [
        list(images(loader(source, backend, augment=strength, image_size=96).epoch(0)))
        for backend in ("dali", "pillow")
    ]
    difference = torch.cat([mean_difference(a, b) for a, b in zip(*both, strict=True)])
    assert difference.max() < 1, difference.max()  # of 255; required: 2
    grey = torch.cat([(batch.amax(dim=-1) - batch.amin(dim=-1)).flatten(1).amax(dim=1) <= 1 for batch in both[0]])
    colour_photos = torch.cat([batch.float().std(dim=-1).mean(dim=(1, 2)) > 1 for batch in both[1]])
    assert colour_photos.any() and grey.any()


def test_the_gpu_definition_gives_the_same_pixels_on_the_cpu(source):
    """On a GPU the resize is DALI's own instead of torch's: the one line of the pipeline that differs."""
    pytest.importorskip("nvidia.dali")
    from mae_fast.data.dali_pipeline import dali_resize

    tested = loader(source, "dali", image_size=96, augment="strong")
    tested._engine._resize = dali_resize((96, 96))
    expected = loader(source, "pillow", image_size=96, augment="strong")
    difference = torch.cat(
        [mean_difference(a, b) for a, b in zip(images(tested.epoch(0)), images(expected.epoch(0)), strict=True)]
    )
    assert 0 < difference.max() < 2, difference.max()


def test_crops_match_a_crop_made_by_hand(source, backend):
    tested = loader(source, backend, image_size=80)
    plan = tested._engine.planner.plan(0, 0)
    batch = next(images(tested.epoch(0))).numpy().astype(int)
    assert 0 < plan.flip.sum() < 16
    rows = zip(batch, plan.indices, plan.windows.tolist(), plan.flip, strict=True)
    for image, index, (top, left, height, width), flip in rows:
        photo = Image.open(source.encoded(index)).convert("RGB").crop((left, top, left + width, top + height))
        expected = np.asarray(photo.resize((80, 80), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(image - (expected[:, ::-1] if flip else expected)).mean() < 1


def test_dali_batches_are_not_copied_and_stay_as_they_are(source, monkeypatch):
    pytest.importorskip("nvidia.dali")
    addresses, real = [], torch.from_dlpack

    def record(tensor):
        if hasattr(tensor, "data_ptr"):  # DALI's tensors; numpy arrays come here too, from the resize
            addresses.append(tensor.data_ptr())
        return real(tensor)

    monkeypatch.setattr(torch, "from_dlpack", record)
    tested = loader(source, "dali")
    held, copies = [], []
    for number in (0, 1):
        for batch in images(tested.epoch(number)):
            held.append(batch)
            copies.append(batch.clone())
    assert [batch.data_ptr() for batch in held] == addresses
    assert len(set(addresses)) == len(addresses) == 2 * len(tested)
    del tested
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=True))


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
