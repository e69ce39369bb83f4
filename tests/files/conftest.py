"""What the tests of this folder share."""

import argparse

import pytest
import torch

import mae_fast
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from tests.files.weights import TINY


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(**TINY)


@pytest.fixture
def checkpoint(tmp_path, model):
    """A training run's file of ours."""
    path = tmp_path / "checkpoint-3.pth"
    save_atomic(
        {
            "model": model.state_dict(),
            "optimizer": {"state": {0: {"exp_avg": torch.randn(3)}}, "param_groups": [{"lr": 0.1}]},
            "epoch": 3,
            "scaler": {"scale": 2.0},
            "args": argparse.Namespace(norm_pix_loss=True),
            "mae_fast": {"config": layouts.describe(model), "position": {"epoch": 4}, "rng": [[torch.arange(3)]]},
        },
        path,
    )
    return path


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")
