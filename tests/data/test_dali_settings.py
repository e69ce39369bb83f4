"""What DALI's pipelines are built with changes their speed and no pixel."""

from dataclasses import replace

import pytest
import torch

from tests.data.batches import images, loader

pytest.importorskip("nvidia.dali")

from mae_fast.data.dali_pipeline import SHIPPED


@pytest.mark.parametrize("change", [{"decode": "whole"}, {"ahead": 4}, {"host_memory_padding": 0, "width_hint": 512}])
def test_other_settings_give_the_same_pixels(source, change):
    expected = images(loader(source, "dali").epoch(1))
    tested = loader(source, "dali", dali=replace(SHIPPED, **change))
    assert all(torch.equal(a, b) for a, b in zip(expected, images(tested.epoch(1)), strict=True))


def test_windows_of_dalis_own_are_for_benchmarks(source):
    tested = loader(source, "dali", dali=replace(SHIPPED, decode="random_crop"))
    batches = list(images(tested.epoch(0)))
    assert len(batches) == len(tested) and batches[0].shape == (16, 48, 48, 3)
    assert not torch.equal(batches[0], next(images(loader(source, "dali").epoch(0))))
