"""Names that stay: what users import, by the paths that README and docs/migrating.md give."""

import importlib
import sys

import pytest

import mae_fast

# Public before the modules were sorted into folders.
ONCE = [
    "attention",
    "checkpoint",
    "config",
    "convert",
    "data",
    "distributed",
    "hf",
    "hub",
    "interrupt",
    "layouts",
    "memory",
    "model",
    "models_mae",
    "models_vit",
    "ops",
    "optim",
    "packed_qkv",
    "parity",
    "positions",
    "recipe",
    "reference",
    "report",
    "resume",
    "step",
    "train",
    "tutorial",
    "visualize",
]


@pytest.mark.parametrize("name", [*ONCE, *mae_fast.SHORT])
def test_a_module_imports_by_its_short_name(name):
    module = importlib.import_module(f"mae_fast.{name}")
    assert getattr(mae_fast, name) is module is sys.modules[f"mae_fast.{name}"]
    if name in mae_fast.SHORT:
        assert module is importlib.import_module(f"mae_fast.{mae_fast.SHORT[name]}")


@pytest.mark.parametrize(
    "statement",
    [
        "from mae_fast import models_mae, models_vit",
        "import mae_fast.hf",
        "from mae_fast.checkpoint import load_pretrained, load_file, CheckpointError",
        "from mae_fast.convert import convert",
        "from mae_fast.memory import choose_batch_size, step_memory",
        "from mae_fast.model import MaskedAutoencoderViT, mae_vit_base_patch16, Block, PatchEmbed",
        "from mae_fast.optim import make_optimizer, param_groups, lr_at",
        "from mae_fast.step import TrainingStep",
        "from mae_fast.train import pretrain, Diverged, available_device",
        "from mae_fast.tutorial import MAE, MAETrainer, create_mae_dataloaders",
        "from mae_fast.visualize import reconstruct, draw",
        "from mae_fast.data import make_loader, open_source, check, write_sample_photos",
    ],
)
def test_statements_that_users_have(statement):
    exec(statement, {})


def test_every_public_name_is_there():
    assert all(hasattr(mae_fast, name) for name in mae_fast.__all__)
