"""The official scripts from a user's clone, unmodified but for the import, beside themselves: same losses throughout.

    MAE_OFFICIAL=CLONE pytest tests/test_official_scripts.py

where CLONE is facebookresearch/mae, and timm 0.3.2 and torchvision can be imported (PYTHONPATH=FOLDER, after
pip install --no-deps --target FOLDER timm==0.3.2 torchvision). run_official.py puts back what the libraries have
dropped since. Minutes long, so not a part of CI, whose anchor to the official numbers is test_drop_in.py.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers import official_shim
from mae_fast.cli import main
from mae_fast.config import TINY
from mae_fast.dropin import models_mae
from mae_fast.files.checkpoint import load_file

CLONE = os.environ.get("MAE_OFFICIAL")
WHERE = {"theirs": "", "ours": "mae_fast."}


def missing() -> str:
    if not CLONE:
        return "MAE_OFFICIAL names no clone of facebookresearch/mae"
    if importlib.util.find_spec("torchvision") is None:
        return "torchvision is not installed"
    try:
        found = importlib.metadata.version("timm")
    except importlib.metadata.PackageNotFoundError:
        return "timm is not installed"
    return "" if found == "0.3.2" else f"the scripts want timm 0.3.2, found {found}"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def clones(tmp_path_factory):
    """The clone as it is, and a copy with `from mae_fast import` in place of `import` of the models."""
    ours = tmp_path_factory.mktemp("clone") / "mae"
    shutil.copytree(CLONE, ours, ignore=shutil.ignore_patterns(".git"))
    for script, models in (("main_pretrain", "mae"), ("main_finetune", "vit"), ("main_linprobe", "vit")):
        text, line = (ours / f"{script}.py").read_text(), f"\nimport models_{models}\n"
        assert text.count(line) == 1
        (ours / f"{script}.py").write_text(text.replace(line, f"\nfrom mae_fast import models_{models}\n"))
        (ours / f"models_{models}.py").unlink(missing_ok=True)  # so that nothing else can be meant
    return {"theirs": Path(CLONE), "ours": ours}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for part in ("train/a", "train/b", "val/a", "val/b"):
        (root / part).mkdir(parents=True)
        for i in range(4):
            corners = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
            corners.resize((240, 230), Image.Resampling.BICUBIC).save(root / part / f"{i}.jpg")
    return root


@pytest.fixture(scope="module")
def run(clones, photos):
    def run(whose, script, models, out, *flags):
        """-> the lines of log.txt."""
        script, models = clones[whose] / f"{script}.py", WHERE[whose] + models
        command = [
            sys.executable, str(Path(__file__).with_name("run_official.py")), models, str(script), "--device=cpu",
            f"--data_path={photos}", f"--output_dir={out}", f"--log_dir={out}", "--num_workers=0", "--batch_size=4",
            "--model=mae_vit_tiny_patch8", *flags,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return [json.loads(line) for line in (out / "log.txt").read_text().splitlines()]

    return run


def numbers(log):
    return [value for line in log for key, value in sorted(line.items())]


@pytest.fixture(scope="module")
def pretrained(run, tmp_path_factory):
    flags = "--epochs=2", "--warmup_epochs=0", "--lr=1e-3", "--norm_pix_loss"
    outs = {whose: tmp_path_factory.mktemp(whose) for whose in WHERE}
    return {whose: (out, run(whose, "main_pretrain", "models_mae", out, *flags)) for whose, out in outs.items()}


def test_pretrain(pretrained):
    (theirs, theirs_log), (ours, ours_log) = pretrained["theirs"], pretrained["ours"]
    assert len(ours_log) == 2 and numbers(ours_log) == pytest.approx(numbers(theirs_log), rel=1e-5)
    a, b = (load_file(out / "checkpoint-1.pth") for out in (theirs, ours))
    assert list(a) == list(b) and list(a["model"]) == list(b["model"])
    for key, value in a["model"].items():
        assert torch.allclose(b["model"][key], value, atol=2e-4), (
            key
        )  # AdamW magnifies rounding where gradients are ~ 0
    shapes = [[{k: v.shape for k, v in s.items() if k != "step"} for s in c["optimizer"]["state"].values()] for c in (a, b)]  # noqa: E501  # fmt: skip
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("wrote", WHERE)
def test_resume(run, pretrained, tmp_path, wrote):
    """Either's checkpoint goes on under the other's code, to the same losses."""
    flags = f"--resume={pretrained[wrote][0] / 'checkpoint-0.pth'}", "--epochs=2", "--warmup_epochs=0", "--lr=1e-3"
    logs = [run(whose, "main_pretrain", "models_mae", tmp_path / whose, *flags) for whose in WHERE]
    assert [line["epoch"] for line in logs[1]] == [1] and numbers(logs[1]) == pytest.approx(numbers(logs[0]), rel=1e-5)


def test_resume_between_the_scripts_and_mae_fast_pretrain(run, pretrained, photos, tmp_path):
    """The official script's checkpoint goes on under `mae-fast pretrain`, and that one's under the official script."""
    flags = [
        "--model=mae_vit_tiny_patch8", "--device=cpu", "--batch_size=4", "--warmup_epochs=0", "--lr=1e-3",
        f"--data_path={photos}", f"--output_dir={tmp_path}", f"--log_dir={tmp_path}", "--num_workers=0",
    ]  # fmt: skip
    official = pretrained["theirs"][0] / "checkpoint-1.pth"
    assert main(["pretrain", *flags, "--epochs=3", f"--resume={official}"]) == 0
    before, after = load_file(official), load_file(tmp_path / "checkpoint-2.pth")
    steps = [{int(s["step"]) for s in content["optimizer"]["state"].values()} for content in (before, after)]
    assert steps == [{4}, {6}] and after["epoch"] == 2
    log = run("theirs", "main_pretrain", "models_mae", tmp_path / "on", "--epochs=4", "--warmup_epochs=0", "--lr=1e-3",
              f"--resume={tmp_path / 'checkpoint-2.pth'}")  # fmt: skip
    assert [line["epoch"] for line in log] == [3]
    assert {int(s["step"]) for s in load_file(tmp_path / "on" / "checkpoint-3.pth")["optimizer"]["state"].values()} == {
        8
    }


@pytest.mark.parametrize("script, flags", [
    ("main_finetune", []),  # no --mixup: timm 0.3.2 makes its targets on a GPU alone
    ("main_finetune", ["--cls_token", "--clip_grad=1", "--drop_path=0.5"]),
    ("main_linprobe", []),
    ("main_linprobe", ["--global_pool"]),
])  # fmt: skip
def test_finetune_and_linprobe(run, pretrained, tmp_path, script, flags):
    flags = [*flags, f"--finetune={pretrained['ours'][0] / 'checkpoint-1.pth'}", "--epochs=2", "--warmup_epochs=0",
             "--lr=1e-3", "--nb_classes=6"]  # fmt: skip
    logs = [run(whose, script, "models_vit", tmp_path / whose, *flags) for whose in WHERE]
    assert len(logs[1]) == 2 and numbers(logs[1]) == pytest.approx(numbers(logs[0]), rel=1e-4)


def test_demo_notebook(pretrained, monkeypatch):
    """Its functions draw the same four pictures with either module."""
    from matplotlib import pyplot as plt

    cells = json.loads((Path(CLONE) / "demo" / "mae_visualize.ipynb").read_text())["cells"]
    (functions,) = [text for cell in cells if "def run_one_image" in (text := "".join(cell["source"]))]
    shown = {}
    monkeypatch.setattr(plt, "show", lambda: None)
    for whose, module in {"theirs": official_shim.load(Path(CLONE)), "ours": models_mae}.items():
        tiny = partial(module.MaskedAutoencoderViT, **TINY.kwargs(), norm_layer=models_mae.NORM)
        scope = {"np": np, "torch": torch, "plt": plt, "models_mae": SimpleNamespace(tiny=tiny)}
        exec(functions, scope)
        with torch.serialization.safe_globals([argparse.Namespace]):
            model = scope["prepare_model"](pretrained["theirs"][0] / "checkpoint-1.pth", "tiny")
        monkeypatch.setattr(plt, "imshow", shown.setdefault(whose, []).append)
        torch.manual_seed(2)
        scope["run_one_image"](np.random.default_rng(0).standard_normal((224, 224, 3)), model)
    assert len(shown["ours"]) == 4
    for theirs, ours in zip(shown["theirs"], shown["ours"], strict=True):
        assert ours.shape == (224, 224, 3) and (theirs - ours).abs().max() <= 1  # of 255 levels
