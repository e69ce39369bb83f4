"""The random part of the data path: order, crops and colours as functions of (seed, epoch, place)."""

import math

import numpy as np
import pytest

from mae_fast.data.augment import ATTEMPTS, DRAWS, LEFT, STRENGTHS, TOP, apply_colour, colours, crop_windows, flips
from mae_fast.data.sampler import Sampler


@pytest.mark.parametrize("size", [100, 101, 13])
@pytest.mark.parametrize("world, batch", [(1, 12), (1, 4), (2, 6), (3, 4), (4, 3), (12, 1), (4, 1)])
def test_ranks_share_each_global_batch(size, world, batch):
    """Each place once, but for the last incomplete global batch; its random numbers are those of one rank alone."""
    ranks = [Sampler(size, batch, 5, rank, world) for rank in range(world)]
    firsts = [rank.first_place(number) for number in range(len(ranks[0])) for rank in ranks]
    assert firsts == list(range(0, size // (batch * world) * batch * world, batch))
    draws = [rank.draws(3, number, DRAWS) for number in range(len(ranks[0])) for rank in ranks]
    alone = Sampler(size, size, 5, 0, 1).draws(3, 0, DRAWS)
    np.testing.assert_array_equal(np.concatenate(draws), alone[: sum(map(len, draws))])
    assert len({rank.order(3).tobytes() for rank in ranks}) == 1
    assert sorted(ranks[0].order(3)) == list(range(size))


def test_order_depends_on_seed_and_epoch_only():
    order = Sampler(50, 4, 0, 0, 1).order(0)
    np.testing.assert_array_equal(order, Sampler(50, 9, 0, 0, 1).order(0))
    assert not np.array_equal(order, Sampler(50, 4, 0, 0, 1).order(1))
    assert not np.array_equal(order, Sampler(50, 4, 1, 0, 1).order(0))


def test_draws_differ_by_every_key_and_fill_the_range():
    keys = [(seed, rank, epoch, batch) for seed in (0, 1) for rank in (0, 1) for epoch in (0, 1) for batch in (0, 1)]
    draws = [Sampler(999, 64, seed, rank, 2).draws(epoch, batch, DRAWS) for seed, rank, epoch, batch in keys]
    assert len({value.tobytes() for value in draws}) == len(keys)
    everything = np.concatenate(draws)
    assert 0 <= everything.min() < 0.001 and 0.999 < everything.max() < 1
    np.testing.assert_allclose(everything.mean(axis=0), 0.5, atol=0.05)


def scalar_window(height, width, draws):
    """RandomResizedCrop in the plainest words."""
    for area, ratio in zip(draws[:ATTEMPTS], draws[ATTEMPTS:TOP], strict=True):
        area = height * width * (0.2 + 0.8 * area)
        ratio = math.exp(math.log(3 / 4) + ratio * (math.log(4 / 3) - math.log(3 / 4)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return math.floor(draws[TOP] * (height - h + 1)), math.floor(draws[LEFT] * (width - w + 1)), h, w
    w, h = width, height
    if width / height < 3 / 4:
        h = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w = round(height * (4 / 3))
    return (height - h) // 2, (width - w) // 2, h, w


def test_crop_windows_match_the_plain_formulation():
    rng = np.random.default_rng(0)
    extremes = [[1, 1], [1, 900], [900, 1], [40, 900], [900, 40], [375, 500]]
    sizes = np.concatenate([rng.integers(1, 700, (500, 2)), extremes])
    draws = rng.random((len(sizes), DRAWS))
    windows = crop_windows(sizes, draws, STRENGTHS["light"])
    assert windows.dtype == np.int32
    assert windows.tolist() == [list(scalar_window(h, w, d)) for (h, w), d in zip(sizes.tolist(), draws, strict=True)]
    top, left, height, width = windows.T
    assert (top >= 0).all() and (left >= 0).all() and (height >= 1).all() and (width >= 1).all()
    assert (top + height <= sizes[:, 0]).all() and (left + width <= sizes[:, 1]).all()
    panorama = crop_windows(np.array([[40, 900]]), np.full((1, DRAWS), 0.999), STRENGTHS["light"])
    assert panorama.tolist() == [[0, 423, 40, 53]]


def test_strengths():
    draws = np.random.default_rng(1).random((4000, DRAWS))
    assert 0.45 < flips(draws, STRENGTHS["light"]).mean() < 0.55
    assert colours(draws, STRENGTHS["light"]) is None
    medium, strong = colours(draws, STRENGTHS["medium"]), colours(draws, STRENGTHS["strong"])
    assert 0.8 <= medium.min() < 0.81 and 1.19 < medium.max() <= 1.2
    assert 0.6 <= strong[:, :2].min() < 0.61 and 1.39 < strong.max() <= 1.4
    assert 0.17 < (strong[:, 2] == 0).mean() < 0.23


def test_colour_formula_on_known_values():
    image = np.array([[[100, 150, 200], [0, 255, 128]]], np.uint8)
    np.testing.assert_array_equal(apply_colour(image, np.float32([1, 1, 1])), image)
    np.testing.assert_array_equal(apply_colour(image, np.float32([1.2, 1, 1])), [[[120, 180, 240], [0, 255, 154]]])
    np.testing.assert_array_equal(apply_colour(image, np.float32([1, 0.5, 1])), [[[114, 139, 164], [64, 192, 128]]])
    np.testing.assert_array_equal(apply_colour(image, np.float32([1, 1, 0])), [[[141] * 3, [164] * 3]])


@pytest.mark.parametrize("world,batch,expected", [(1, 10, 10), (3, 10, 3), (4, 25, 1)])
def test_batches_per_epoch(world, batch, expected):
    assert len(Sampler(101, batch, 0, 0, world)) == expected
