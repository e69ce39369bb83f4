"""The loaders: reproducible, resumable, the same by DALI and by Pillow, without copies."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.data.batches import images, loader, mean_difference


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
    alone = loader(source, backend, batch_size=8)
    ranks = [loader(source, backend, rank=rank, world_size=2, batch_size=4) for rank in range(2)]
    assert [rank.first_place(1) for rank in ranks] == [8, 12]
    for whole, *parts in zip(*(images(side.epoch(1)) for side in (alone, *ranks)), strict=True):
        assert torch.equal(torch.cat(parts), whole)


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
