"""Schedules, flags and --config files of mae-fast pretrain."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mae_fast.cli import main
from mae_fast.config import DTYPES
from mae_fast.files.checkpoint import load_file
from mae_fast.model.precision import stream_dtype
from mae_fast.pixels import RGB
from mae_fast.train import Pretrain, Schedule, machine, pretrain
from mae_fast.train.assemble import initialised
from mae_fast.train.optim import _plateaus, lr_at
from tests.train.runs import flags, parse

CPU_MULTIPLIES_BF16 = machine.cpu_multiplies_bf16  # the tests of training have another in its place


def schedule(**changes):
    return Schedule(lr=1.5, epochs=100, warmup_epochs=10, **changes)


def test_learning_rates():
    args = schedule(min_lr=0.1)
    assert [lr_at(e, args) for e in (0, 5, 10)] == [0, 0.75, 1.5]
    assert lr_at(55, args) == pytest.approx(0.8) and lr_at(100, args) == pytest.approx(0.1)
    assert lr_at(10 + 90 / 3, args) == pytest.approx(0.1 + 1.4 * 0.75)
    step = schedule(sched="step", decay_epochs=30)
    assert [lr_at(e, step) for e in (39.9, 40, 75)] == pytest.approx([1.5, 0.15, 0.015])
    plateau = schedule(sched="plateau", patience_epochs=2)
    assert [lr_at(20, plateau, losses) for losses in ([3, 2, 1], [1, 1, 1], [1, 1, 1, 1])] == pytest.approx([1.5, 1.5, 0.15])  # noqa: E501  # fmt: skip
    assert _plateaus([1] * 7, 2) == 2


OFFICIAL_DEFAULTS = dict(
    batch_size=64, epochs=400, accum_iter=1, model="mae_vit_large_patch16", input_size=224, mask_ratio=0.75,
    norm_pix_loss=False, weight_decay=0.05, lr=None, blr=1e-3, min_lr=0.0, warmup_epochs=40,
    data_path="/datasets01/imagenet_full_size/061417/", output_dir="./output_dir", log_dir="./output_dir",
    device="cuda", seed=0, resume="", start_epoch=0, num_workers=10, pin_mem=True, world_size=1, local_rank=-1,
    dist_on_itp=False, dist_url="env://",
)  # fmt: skip


def test_official_flags_and_defaults():
    settings = parse([]).flat()
    assert {name: settings[name] for name in OFFICIAL_DEFAULTS} == OFFICIAL_DEFAULTS
    assert parse(["--no_pin_mem"]).data.pin_mem is False


@pytest.mark.parametrize("name", ["compile", "cuda_graphs"])
def test_what_may_be_left_open_is_switched_on_and_off(tmp_path, name):
    (tmp_path / "c.yaml").write_text(f"{name}: true")
    config = f"--config={tmp_path / 'c.yaml'}"
    on, off = f"--{name}", f"--no_{name}"
    for words, wanted in (([], None), ([on], True), ([off], False), ([config], True), ([config, off], False)):
        assert getattr(parse(words), name) is wanted
    for text, wanted in (("false", False), ("null", None)):
        (tmp_path / "c.yaml").write_text(f"{name}: {text}")
        assert getattr(parse([config]), name) is wanted
    assert getattr(Pretrain.of(**{name: None}), name) is None
    with pytest.raises(SystemExit):
        parse(["--no_norm_pix_loss"])  # off unless asked for


@pytest.mark.parametrize(
    "asked, device, bf16, wanted",
    [
        ("auto", "cuda", False, "bf16"), ("auto", "cpu", False, "fp32"), ("auto", "cpu", True, "bf16"),
        ("fp32", "cuda", True, "fp32"), ("fp16", "cpu", True, "fp16"),
    ],
)  # fmt: skip
def test_products_are_bf16_where_the_device_multiplies_it(monkeypatch, asked, device, bf16, wanted):
    monkeypatch.setattr(machine, "cpu_multiplies_bf16", lambda: bf16)
    assert machine.products_in(asked, "auto", device) == wanted


def test_what_a_cpu_multiplies_is_asked_of_pytorch(monkeypatch):
    real = CPU_MULTIPLIES_BF16
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert not real()
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        with monkeypatch.context() as patch:
            patch.setattr(torch.cpu, name, lambda: True)
            assert real()
            patch.delattr(torch.cpu, name)  # an older PyTorch, or one for other processors
            assert not real()


def test_the_residual_stream_is_the_models_to_choose_unless_it_is_set():
    for stream, wanted in (("auto", None), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        recipe = Pretrain.of(stream=stream, model="mae_vit_tiny_patch8", input_size=32)
        assert initialised(recipe, RGB, None).stream is wanted
    with pytest.raises(ValueError, match="stream: bf16 is for products in bf16, and these are in fp32"):
        machine.products_in("auto", "bf16", "cpu")
    assert machine.products_in("bf16", "bf16", "cpu") == "bf16"


@pytest.mark.parametrize(
    "wanted, parameters, products, device, kept_in",
    [
        (None, "fp32", "bf16", "cuda", "bf16"), (None, "fp32", "bf16", "cpu", "fp32"),
        (None, "fp32", "fp16", "cuda", "fp32"), (None, "fp32", "fp32", "cuda", "fp32"),
        ("fp32", "fp32", "bf16", "cuda", "fp32"), ("bf16", "fp32", "bf16", "cpu", "bf16"),
        ("bf16", "fp32", "fp32", "cuda", "fp32"), ("fp32", "bf16", "bf16", "cuda", "bf16"),
    ],
)  # fmt: skip
def test_what_the_residual_stream_is_kept_in(wanted, parameters, products, device, kept_in):
    dtypes = DTYPES.get(wanted), DTYPES[parameters], DTYPES[products]
    assert stream_dtype(*dtypes, torch.device(device)) == DTYPES[kept_in]


def test_config_file_gives_defaults_that_the_command_line_beats(photos, tmp_path):
    out = tmp_path / "o"
    config = {"device": "cpu", "model": "mae_vit_tiny_patch8", "input_size": 32, "batch_size": 4, "epochs": 5,
              "data_path": str(photos), "output_dir": str(out), "blr": "1e-3", "norm_pix_loss": True}  # fmt: skip
    (tmp_path / "c.yaml").write_text("\n".join(f"{k}: {json.dumps(v)}" for k, v in config.items()))
    assert main(["pretrain", "--config", str(tmp_path / "c.yaml"), "--epochs=1", "--log_dir="]) == 0
    args = load_file(out / "checkpoint-0.pth")["args"]
    assert args.norm_pix_loss is True and args.epochs == 1 and args.blr == 1e-3


@pytest.mark.parametrize(
    "text, message",
    [
        ("epoch: 3", "epoch is not a flag of pretrain; epochs?"),
        ("epochs: many", "epochs: 'many' does not fit (expected int)"),
        ("model: vit", "model: 'vit' does not fit"),
        ("norm_pix_loss: 1", "norm_pix_loss: 1 does not fit (expected true or false)"),
        ("- epochs", "expected flags and values"),
        ("epochs: [", "not YAML"),
        ("batch_size: null", "batch_size: None does not fit"),
        ("seed: null", "seed: None does not fit (expected int)"),
        ("weight_decay: .nan", "weight_decay: expected at least 0, got nan"),
        ("num_workers: -3", "num_workers: expected at least 0, got -3"),
    ],
)
def test_config_errors_name_the_key(tmp_path, capsys, text, message):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert main(["pretrain", "--config", str(path)]) == 1
    err = capsys.readouterr().err
    assert message in err and str(path) in err


@pytest.mark.parametrize(
    "more, message",
    [
        (["--batch_size=0"], "--batch_size: expected at least 1"),
        (["--cuda_graphs"], "--cuda_graphs: needs a CUDA device and one process"),
        (["--mask_ratio=0"], "--mask_ratio: expected more than 0"),
        (["--weight_decay=nan"], "--weight_decay: expected at least 0, got nan"),
        (["--clip_grad=-1"], "--clip_grad: expected at least 0"),
        (["--warmup_epochs=-1"], "--warmup_epochs: expected at least 0"),
        (["--num_workers=-3"], "--num_workers: expected at least 0"),
        (["--blr=nan"], "--blr: expected at least 0"),
        (["--lr=-1"], "--lr: expected at least 0"),
        (["--lr=inf"], "--lr: expected at least 0, got inf"),
        (["--lr=1", "--min_lr=5"], "--min_lr: 5 is above lr 1"),
        (["--min_lr=5"], "--min_lr: 5 is above the learning rate"),
        (["--start_epoch=3"], "--start_epoch: 3 leaves nothing to train"),
        (["--device=gpu"], "--device: expected cuda, cuda:N or cpu, got 'gpu'"),
        (["--device=cuda:99"], "--device: cuda:99 is not there"),
        (["--config=/"], "--config: / is a folder"),
        (["--config=/no/such.yaml"], "--config: /no/such.yaml: No such file"),
        (["--resume=/"], "--resume: /: Is a directory"),
        (["--init_from=/no/such.pth"], "--init_from: /no/such.pth: No such file"),
        (["--output_dir=/dev/null/x"], "--output_dir: /dev/null"),
        (["--batch_size=64"], "lower batch_size"),
        (["--accum_iter=9"], "--accum_iter: 9 is more than"),
        (["--input_size=33"], "img_size"),
        (["--data_path=/no/such/folder"], "--data_path: /no/such/folder"),
        (["--resume=/no/such.pth"], "--resume: /no/such.pth"),
    ],
)
def test_flag_errors_name_the_flag(photos, tmp_path, capsys, more, message):
    assert main(["pretrain", *flags(photos, tmp_path / "o"), *more]) == 1
    assert message in capsys.readouterr().err
    assert not Path(tmp_path / "o").exists()


def test_what_is_no_recipe_is_refused_by_name():
    with pytest.raises(TypeError, match=r"recipe: expected a Pretrain, as Pretrain\.of"):
        pretrain(argparse.Namespace(epochs=1))


def test_a_recipe_is_frozen_and_goes_to_settings_and_back():
    recipe = Pretrain.of(batch_size=4, epochs=3, lr=0.1, clip_grad=1)
    assert (recipe.data.batch_size, recipe.schedule.epochs, recipe.schedule.lr) == (4, 3, 0.1)
    assert Pretrain.of(**recipe.flat()) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 1
    resolved = recipe.schedule.at_batch(512)
    assert resolved.lr == 0.1 and Schedule(blr=1e-3).at_batch(512).lr == 2e-3


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"batch_size": "4"}, "batch_size: expected int or auto, got '4'"),
        ({"epochs": True}, "epochs: expected int, got True"),
        ({"compile": 1}, "compile: expected bool, got 1"),
        ({"augment": "wild"}, "augment: expected one of light, medium, strong, got 'wild'"),
        ({"resume": "a", "init_from": "b"}, "resume and init_from: give one"),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        Pretrain.of(**settings)
