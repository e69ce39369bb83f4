"""A small model, and the same in a checkpoint."""

import pytest
import torch

import mae_fast
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
