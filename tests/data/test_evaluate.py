"""Loaders of every picture once, for evaluation: the official resize and cut, ranks, bad files."""

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast.data import BadImageError, make_eval_loader, open_source
from mae_fast.data.evaluate import crop_of
from tests.data.batches import mean_difference


def loader(source, backend, size=48, batch_size=20, **arguments):
    return make_eval_loader(
        source, batch_size, size, backend=backend, num_workers=2 if backend == "dali" else 0, **arguments
    )


def fitted(path, side, crop):
    """torchvision's Resize(int(side / crop), bicubic) and CenterCrop(side), written out."""
    image = Image.open(path).convert("RGB")
    width, height = image.size
    short = int(side / crop)
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    top, left = round((height - side) / 2.0), round((width - side) / 2.0)
    return np.asarray(image.crop((left, top, left + side, top + side)))


@pytest.fixture(scope="module")
def classes(tmp_path_factory, photos):
    """The 48 photographs cut to many shapes, in two class folders."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for label in "ab":
        (root / label).mkdir()
    for number, path in enumerate(sorted(photos.iterdir())):
        image = Image.open(path)
        image = image.crop((0, 0, rng.integers(30, image.width + 1), rng.integers(30, image.height + 1)))
        image.save(root / "ab"[number % 2] / f"{number:03d}.png")
    return root


@pytest.mark.parametrize("crop", [224 / 256, 1.0])
def test_pictures_are_resized_and_cut_as_officially(classes, backend, crop):
    source = open_source(classes)
    tested = loader(source, backend, crop=crop)
    assert len(tested) == 3
    batches = list(tested.indexed())
    assert [len(imgs) for imgs, *_ in batches] == [20, 20, 8]
    assert np.concatenate([indices for *_, indices in batches]).tolist() == list(range(48))
    assert torch.cat([labels for _, labels, _ in batches]).tolist() == source.labels.tolist()
    imgs = torch.cat([imgs for imgs, *_ in batches])
    expected = torch.from_numpy(np.stack([fitted(source.encoded(i), 48, crop) for i in range(48)]))
    assert imgs.dtype == torch.uint8 and mean_difference(imgs, expected).max() < (1 if backend == "dali" else 1e-6)
    assert all(torch.equal(a, b) for (a, _), (b, *_) in zip(tested.epoch(0), batches, strict=True))  # again the same


def test_the_gpu_definition_gives_the_same_pixels_on_the_cpu(classes):
    pytest.importorskip("nvidia.dali")
    from mae_fast.data.dali_pipeline import dali_resize

    source = open_source(classes)
    tested = loader(source, "dali", size=(32, 64))
    tested._engine._resize = dali_resize((32, 64), fits=True)
    for (a, _), (b, _) in zip(tested.epoch(0), loader(source, "pillow", size=(32, 64)).epoch(0), strict=True):
        assert mean_difference(a, b).max() < 2


def test_ranks_see_every_picture_once(source, backend):
    ranks = [loader(source, backend, batch_size=50, rank=rank, world_size=3) for rank in range(3)]
    seen = [[indices for *_, indices in rank.indexed()] for rank in ranks]
    assert [len(batches) for batches in seen] == [len(rank) for rank in ranks]
    assert sorted(np.concatenate([x for batches in seen for x in batches]).tolist()) == list(range(len(source)))
    assert len(loader(open_source(source.root / next(iter(source.classes))), backend, rank=999, world_size=1000)) == 0


def test_bad_pictures_are_left_out_and_counted(folder, backend):
    for name in ("003.jpg", "020.jpg", "021.jpg", "047.jpg"):
        (folder / name).write_bytes(b"")
    path = folder / "010.jpg"  # whole to its header, damaged in its pixels
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\xff\xd9")
    source = open_source(folder)
    tested = loader(source, backend, batch_size=20)
    batches = list(tested.indexed())
    found = np.concatenate([indices for *_, indices in batches]).tolist()
    bad = {3, 20, 21, 47} | ({10} if "010.jpg" in str(tested.bad_images) else set())
    assert found == [i for i in range(48) if i not in bad] and len(tested.bad_images) == len(bad)
    assert all(labels is None and len(imgs) == len(indices) for imgs, labels, indices in batches)
    for name in [f"{number:03d}.jpg" for number in range(40, 48)]:
        (folder / name).write_bytes(b"")
    assert len(list(loader(source, backend, batch_size=20).epoch(0))) == 2  # nothing of the last batch is left
    with pytest.raises(BadImageError, match=r"003.jpg: zero bytes"):
        list(loader(source, backend, on_bad_image="stop").epoch(0))


def test_arguments(source):
    assert crop_of(224) == 0.875 and crop_of(225) == 1.0 and crop_of((32, 384)) == 1.0
    for wrong in ({"crop": 0}, {"crop": 1.1}, {"batch_size": 0}, {"backend": "opencv"}, {"rank": 2, "world_size": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make_eval_loader(**{"source": source, "batch_size": 2, "image_size": 8} | wrong)
