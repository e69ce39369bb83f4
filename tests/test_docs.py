"""The Python of docs/migrating.md runs, at a tiny size; what the Markdown files link to is in the commit."""

import posixpath
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import mae_fast

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "migrating.md"
LINK = re.compile(r"""\]\(\s*([^)\s]+)|(?:src|href)=["']([^"']+)""")  # of Markdown, of HTML
SNIPPETS = dict(re.findall(r"^## From ([^\n]+)\n(?:(?!^## ).)*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S))


@pytest.fixture(autouse=True)
def undone():
    yield
    mae_fast.hf.restore()
    mae_fast.unfuse_attention()


def test_every_snippet_is_run_below():
    assert len(SNIPPETS) == PAGE.read_text().count("```python") == 4


def test_hugging_face():
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTMAEConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
    )  # fmt: skip
    names = {"model": transformers.ViTMAEForPreTraining(config), "pixel_values": torch.randn(2, 3, 16, 16)}
    exec(SNIPPETS["Hugging Face transformers"], names)
    assert names["outputs"].loss.isfinite()


def test_hugging_face_from_pretraining_to_a_classifier(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the Trainer needs it")
    monkeypatch.chdir(tmp_path)
    config = transformers.ViTMAEConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=2,
    )  # fmt: skip
    arguments = transformers.TrainingArguments(max_steps=1, use_cpu=True, report_to=[], disable_tqdm=True)
    pictures = [{"pixel_values": image} for image in torch.randn(8, 3, 16, 16)]
    labelled = [row | {"labels": i % 3} for i, row in enumerate(pictures)]
    names = {"config": config, "arguments": arguments, "pictures": pictures, "labelled": labelled}
    exec(SNIPPETS["Hugging Face pretraining to a classifier"], names)
    assert names["classifier"](torch.randn(2, 3, 16, 16)).logits.shape == (2, 3)


def test_timm(capsys):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.num_heads, self.qkv, self.proj = 2, nn.Linear(8, 24), nn.Linear(8, 8)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    exec(SNIPPETS["timm, and other Vision Transformers"], {"vit": Attention(), "pixel_values": torch.randn(2, 5, 8)})
    assert "'fused'" in capsys.readouterr().out


def test_tutorial_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8))
    (tmp_path / "data").mkdir()
    for i in range(2):
        picture.save(tmp_path / "data" / f"{i}.png")
    config = dict(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, decoder_embed_dim=16, decoder_depth=1,
                  decoder_num_heads=2, batch_size=2, epochs=1, dataset={"root": "data", "num_workers": 0})  # fmt: skip
    exec(SNIPPETS["tutorial code"], {"config": config, "picture": picture})
    assert (tmp_path / "output_dir" / "training_curves.png").is_file()
    assert (tmp_path / "mae_reconstruction.png").is_file()


def test_what_the_pages_link_to_is_in_the_commit():
    """On the disk it may be for other reasons: a file that .gitignore hides is missing for everybody else."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = set(listed.stdout.split("\n")) - {""}
    folders = {str(folder) for file in files for folder in Path(file).parents}
    pages = [file for file in files if file.endswith(".md")]
    links = [(page, target) for page in pages for pair in LINK.findall((ROOT / page).read_text()) for target in pair]
    links = [(page, target.split("#")[0]) for page, target in links if not re.match(r"\w+:|#|$", target)]
    assert any(page == "README.md" and target.endswith(".png") for page, target in links)
    paths = {(page, posixpath.normpath(posixpath.join(posixpath.dirname(page), target))) for page, target in links}
    assert not {link for link in paths if link[1] not in files | folders}
