"""RandAugment in both engines, and what of timm works on batches: from the seeds that they are given, and no others."""

import random

import numpy as np
import pytest
import torch

from mae_fast.data.augment import STRENGTHS, Augment, crop_windows
from mae_fast.data.timm_parts import Mixup, RandomErasing
from tests.data.batches import images, loader, mean_difference

POLICY = Augment(scale=(0.5, 1.0), policy="rand-m9-mstd0.5-inc1")


def test_rand_augment_is_a_function_of_seed_epoch_and_place(source, backend):
    whole = loader(source, backend, augment=POLICY, batch_size=8)
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = list(images(whole.epoch(1)))
    assert state[1:] == (np.random.get_state()[1].tolist(), random.getstate()) and torch.equal(
        state[0], torch.get_rng_state()
    )
    ranks = [
        loader(source, backend, augment=POLICY, batch_size=4, rank=rank, world_size=2, num_workers=workers)
        for rank, workers in ((0, 0), (1, 2))
    ]
    cut = [torch.cat(pair) for pair in zip(*(images(rank.epoch(1)) for rank in ranks), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(first, cut, strict=False))
    plain = images(loader(source, backend, augment=Augment(scale=(0.5, 1.0)), batch_size=8).epoch(1))
    changed = torch.cat([mean_difference(a, b) > 2 for a, b in zip(first, plain, strict=True)])
    assert 0.3 < changed.float().mean() < 0.95  # two operations a picture, each with probability 0.5


def test_rand_augment_gives_the_same_pixels_by_dali_and_pillow(source):
    pytest.importorskip("nvidia.dali")
    both = [images(loader(source, backend, augment=POLICY, image_size=96).epoch(0)) for backend in ("dali", "pillow")]
    difference = torch.cat([mean_difference(a, b) for a, b in zip(*both, strict=True)])
    # operations such as posterize magnify a difference of 1 of 255 in the crop
    assert difference.median() < 1 and (difference < 3).float().mean() > 0.9


def test_crops_of_the_linear_probe():
    """One attempt, cut off at the picture's sides."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(20, 200, (500, 2))
    draws = rng.random((500, 28))
    windows = crop_windows(sizes, draws, Augment(scale=(0.08, 1.0), attempts=1))
    area, ratio = sizes.prod(1) * (0.08 + 0.92 * draws[:, 0]), np.exp(np.log(4 / 3) * (2 * draws[:, 10] - 1))
    tall = np.minimum(np.rint(np.sqrt(area / ratio)), sizes[:, 0])
    wide = np.minimum(np.rint(np.sqrt(area * ratio)), sizes[:, 1])
    assert (windows[:, 2:] == np.stack([tall, wide], 1)).all()
    assert (windows[:, :2] >= 0).all() and (windows[:, :2] + windows[:, 2:] <= sizes).all()
    assert (windows != crop_windows(sizes, draws, STRENGTHS["light"])).any()


def test_mixup_and_erasing_draw_from_their_seeds_alone():
    mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=5)
    imgs, labels = torch.randn(6, 3, 16, 16), torch.arange(6) % 5
    mixed = [mix(imgs.clone(), labels, seed) for seed in (7, 8, 7)]
    assert torch.equal(mixed[0][0], mixed[2][0]) and torch.equal(mixed[0][1], mixed[2][1])
    assert not torch.equal(mixed[0][0], mixed[1][0])
    assert torch.allclose(mixed[0][1].sum(1), torch.ones(6)) and mixed[0][1].min() > 0
    erase = RandomErasing(0.5, "pixel", 1, torch.device("cpu"))
    erased = [torch.zeros(64, 3, 16, 16) for _ in range(2)]
    erase(erased[0], list(range(64)))
    for number in (range(32), range(32, 64)):  # in two batches
        erase(erased[1][number.start : number.stop], list(number))
    assert torch.equal(*erased)
    share = (erased[0].abs().amax(dim=(1, 2, 3)) > 0).float().mean()
    assert 0.3 < share < 0.7 and 0.5 < erased[0][erased[0] != 0].std() < 1.5


def test_a_wrong_policy(source, backend):
    with pytest.raises(ValueError, match=r"aa: 'rand-x9'|aa: 'original'"):
        loader(source, backend, augment=Augment(policy="rand-x9"))
