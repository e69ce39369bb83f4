"""A small model, and the same in a checkpoint."""

import pytest
import torch

import mae_fast
from benchmarks.harness.digits import write_digits
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic


@pytest.fixture
def model():
    torch.manual_seed(0)
    return mae_fast.MaskedAutoencoderViT(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=4, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2,
    )  # fmt: skip


@pytest.fixture
def checkpoint(model, tmp_path):
    path = tmp_path / "model.pth"
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, path)
    return path


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """scikit-learn's digits, 30 training and 10 validation pictures a class, as PNG files of 32 pixels."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder, train=30, val=10)
    return folder


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
