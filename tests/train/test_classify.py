"""mae-fast finetune and linprobe, from a pretrained checkpoint to the accuracy."""

import argparse
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from mae_fast import MaskedAutoencoderViT
from mae_fast.cli import main
from mae_fast.files.atomic import save_atomic
from mae_fast.files.checkpoint import load_file, read_checkpoint
from mae_fast.files.classifier import from_pretrained, load_classifier
from mae_fast.files.convert import convert
from mae_fast.files.layouts import describe
from mae_fast.recipe import Finetune, Linprobe
from mae_fast.train.classify import assemble, classify
from mae_fast.train.confusion import confusion_matrix, draw_confusion, most_confused
from mae_fast.train.mixing import normalise
from tests.train.runs import log, same

BACKGROUND = {0: (150, 0, 0), 1: (0, 150, 0), 4: (0, 0, 150)}
TUNE = ["--batch_size=8", "--epochs=2", "--warmup_epochs=0", "--lr=2e-3", "--layer_decay=1", "--clip_grad=1"]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Three classes of scikit-learn's digits at 32 pixels, 16 of each to learn from, 8 to judge by; each class has its
    background, so that a few steps are enough."""
    root, found = tmp_path_factory.mktemp("digits"), load_digits()
    for name in (0, 1, 4):
        pictures = found.images[found.target == name][:24] * 15.9
        for number, pixels in enumerate(pictures.astype(np.uint8)):
            folder = root / ("train" if number < 16 else "val") / str(name)
            folder.mkdir(parents=True, exist_ok=True)
            large = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
            channels = [large.point(lambda x, c=c: max(x, c)) for c in BACKGROUND[name]]
            Image.merge("RGB", channels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """An encoder as pretraining leaves it, for 32 pixels."""
    torch.manual_seed(0)
    model = MaskedAutoencoderViT(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, decoder_embed_dim=32, decoder_depth=1,
        decoder_num_heads=2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("pretrained") / "checkpoint-0.pth"
    save_atomic({"model": model.state_dict(), "mae_fast": {"config": describe(model)}}, path)
    return path


@pytest.fixture(scope="module")
def flags(digits, pretrained):
    def flags(out, *more):
        return [f"--data_path={digits}", f"--finetune={pretrained}", "--input_size=32", "--device=cpu", "--dtype=fp32",
                "--loader=pillow", "--num_workers=0", f"--output_dir={out}", f"--log_dir={out}", *more]  # fmt: skip

    return flags


@pytest.fixture(scope="module")
def tuned(flags, tmp_path_factory):
    out = tmp_path_factory.mktemp("tuned")
    more = ["--mixup=0.8", "--cutmix=1.0", "--drop_path=0.2", "--save_every=1"]
    assert main(["finetune", *flags(out, *TUNE, *more)]) == 0
    return out, more


def test_finetune_writes_what_the_official_script_writes(tuned):
    out, _ = tuned
    lines = log(out)
    keys = {"train_lr", "train_loss", "test_loss", "test_acc1", "test_acc5", "epoch", "n_parameters"}
    assert [set(line) for line in lines] == [keys] * 2
    assert [line["epoch"] for line in lines] == [0, 1] and all(0 <= line["test_acc1"] <= 100 for line in lines)
    assert all(line["test_acc5"] == 100 for line in lines)  # of three classes
    checkpoint = load_file(out / "checkpoint-1.pth")
    assert {"model", "optimizer", "epoch", "scaler", "args"} <= set(checkpoint)
    assert checkpoint["args"].layer_decay == 1 and checkpoint["args"].model == "classifier"
    assert {"fc_norm.weight", "head.weight"} <= set(checkpoint["model"]) and "norm.weight" not in checkpoint["model"]
    assert {(out / name).stat().st_size > 0 for name in ("confusion.png", "loss.png")} == {True}


def test_a_resumed_run_sees_the_same(tuned, flags, tmp_path):
    """Mixing, erasing, RandAugment and drop path included."""
    out, more = tuned
    words = flags(tmp_path, *TUNE, *more, f"--resume={out / 'checkpoint-0.pth'}")
    assert main(["finetune", *words]) == 0
    same(load_file(tmp_path / "checkpoint-1.pth")["model"], load_file(out / "checkpoint-1.pth")["model"])
    assert log(tmp_path)[-1] == log(out)[-1]


def test_eval_gives_the_accuracy_of_the_run(tuned, flags, tmp_path, capsys):
    out, _ = tuned
    words = flags(tmp_path / "new", "--eval", f"--resume={out / 'checkpoint-1.pth'}", "--batch_size=5")
    assert main(["finetune", *words]) == 0
    accuracy = log(out)[-1]["test_acc1"]
    assert f"accuracy {accuracy:.2f} % of 24 images" in capsys.readouterr().out
    assert (tmp_path / "new" / "confusion.png").is_file() and not (tmp_path / "new" / "log.txt").exists()


def test_linprobe_trains_the_head_alone(flags, pretrained, tmp_path):
    words = ["--batch_size=6", "--epochs=8", "--warmup_epochs=0", "--lr=2", "--global_pool"]
    assert main(["linprobe", *flags(tmp_path, *words)]) == 0
    lines, state = log(tmp_path), load_file(tmp_path / "checkpoint-7.pth")["model"]
    before = read_checkpoint(pretrained)[0]
    assert all(torch.equal(value, before[key]) for key, value in state.items() if key in before)
    assert {key for key in state if key not in before} == {
        "head.0.running_mean", "head.0.running_var", "head.0.num_batches_tracked", "head.1.weight", "head.1.bias",
        "fc_norm.weight", "fc_norm.bias",
    }  # fmt: skip
    assert (state["fc_norm.weight"] == 1).all() and len([key for key in before if key in state]) == 4 + 2 * 12
    assert lines[-1]["n_parameters"] == 48 * 3 + 3
    assert lines[-1]["test_acc1"] > 50 and lines[-1]["train_loss"] < lines[0]["train_loss"]
    model, _ = load_classifier(tmp_path / "checkpoint-7.pth")
    scores = classify(Linprobe.of(
        data_path=str(flags(0)[0].split("=")[1]), eval=True, resume=str(tmp_path / "checkpoint-7.pth"), input_size=32,
        device="cpu", output_dir="", num_workers=0, batch_size=24,
    ))  # fmt: skip
    assert scores.acc1 == lines[-1]["test_acc1"] and scores.images == 24 and model.global_pool


@pytest.mark.parametrize("layout", ["official.pth", "timm.safetensors", "hf"])
def test_weights_of_every_layout_start_the_same_classifier(pretrained, tmp_path, layout):
    kind = layout.split(".")[0]
    convert(pretrained, tmp_path / layout, kind)
    sizes = {"num_heads": 3} if kind != "hf" else {}
    models = []
    for path in (pretrained, tmp_path / layout):
        torch.manual_seed(1)
        models.append(from_pretrained(path, 3, True, (32, 48), preset=sizes).state_dict())
    same(*models)
    assert models[0]["pos_embed"].shape == (1, 1 + 4 * 6, 48) and models[0]["head.weight"].abs().max() < 2e-4


def test_what_the_classifier_sees(pretrained):
    """uint8 pictures, gathered and normalised by the fused op, are those that the convolution sees."""
    torch.manual_seed(0)
    model = from_pretrained(pretrained, 3, False, (32, 32), head_std=0.1).eval()
    imgs = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    assert torch.allclose(model(imgs), model(normalise(imgs, model.mean, model.std)), atol=1e-5)


def test_every_rank_and_batch_sees_the_same_erasing(flags):
    args = {name.removeprefix("--"): value for name, _, value in (word.partition("=") for word in flags(""))}
    recipe = Finetune.of(**args | {"input_size": 32, "num_workers": 0, "batch_size": 8, "reprob": 0.9, "lr": 1e-3})
    run = assemble(recipe)
    imgs, labels = next(run.loader.epoch(0))
    whole, _ = run.mix(imgs, labels, 0, 0)
    parts = torch.cat([run.mix(imgs[:4], labels[:4], 0, 0)[0], run.mix(imgs[4:], labels[4:], 0, 4)[0]])
    assert torch.equal(whole, parts) and not torch.equal(whole, normalise(imgs, run.model.mean, run.model.std))
    run.report.close()


def test_two_ranks_train_and_judge_like_one(flags, tmp_path):
    words = [*TUNE, "--epochs=1", "--reprob=0.5", "--drop_path=0", "--smoothing=0"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "mae_fast"]
    command = [*launch, "finetune", *flags(tmp_path / "two", *words, "--batch_size=4")]
    two = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert main(["finetune", *flags(tmp_path / "one", *words)]) == 0
    assert two.wait(300) == 0
    (one,), (two,) = (log(tmp_path / name) for name in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3) and two["test_acc1"] == one["test_acc1"]


@pytest.mark.parametrize("command, words, message", [
    ("finetune", ["--accum_iter=7"], "--accum_iter: 7 is more than an epoch's 6 batches"),
    ("finetune", ["--eval"], "--eval: needs resume"),
    ("finetune", ["--nb_classes=2"], "--nb_classes: 2 are fewer than the 3"),
    ("finetune", ["--aa=rand-x1"], "--aa: 'rand-x1' is no policy"),
    ("finetune", ["--mixup=1", "--batch_size=5"], "--batch_size: 5 is odd"),
    ("finetune", ["--cutmix_minmax", "0.8", "0.2"], "--cutmix_minmax: expected two numbers"),
    ("finetune", ["--input_size=33"], "--input_size: (33, 33) is not a whole number of patches of 8"),
    ("finetune", ["--model=vit_base_patch16"], "--model: its patch_size is 16"),
    ("linprobe", ["--eval", "--resume={pretrained}"], "holds no classifier"),
    ("linprobe", ["--data_path={pretrained.parent}/none"], "--data_path"),
])  # fmt: skip
def test_what_cannot_work_is_said_first(flags, pretrained, tmp_path, capsys, command, words, message):
    words = [word.format(pretrained=pretrained) for word in words]
    assert main([command, *flags(tmp_path / "out", "--batch_size=8", "--epochs=1", "--warmup_epochs=0", *words)]) == 1
    assert message in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.pth"))


def test_confusion(tmp_path):
    scores, labels = torch.eye(4)[torch.tensor([0, 1, 1, 2, 2])], torch.tensor([0, 1, 2, 2, 2])
    matrix = confusion_matrix(scores, labels)
    assert matrix.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]]
    assert most_confused(matrix) == [(2, 1, 1, 1 / 3)]
    draw_confusion(matrix, list("abcd"), tmp_path / "few.png")
    many = torch.randint(0, 5, (60, 60))
    draw_confusion(many, [f"class {i}" for i in range(60)], tmp_path / "many.png", "a note")
    assert [Image.open(tmp_path / name).format for name in ("few.png", "many.png")] == ["PNG", "PNG"]


def test_official_defaults():
    tune, probe = Finetune(), Linprobe()
    assert (tune.schedule.epochs, tune.schedule.warmup_epochs, tune.schedule.min_lr, tune.layer_decay) == (
        50,
        5,
        1e-6,
        0.75,
    )
    assert (probe.schedule.epochs, probe.schedule.warmup_epochs, probe.schedule.blr) == (90, 10, 0.1)
    assert (probe.data.batch_size, probe.weight_decay, probe.pooled, tune.pooled) == (512, 0, False, True)
    assert json.dumps(tune.flat()) and argparse.Namespace(**probe.flat()).global_pool is False
