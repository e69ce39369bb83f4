"""Features of files: those of the model, in the order of the source, and the same in every format."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mae_fast.cli import main
from mae_fast.data import make_eval_loader, open_source
from mae_fast.downstream import extras
from mae_fast.downstream.features import extract


def test_features_are_what_encode_gives(model, digits):
    source = open_source(digits, "val")
    imgs = torch.cat([imgs for imgs, _ in make_eval_loader(source, 100, 32, backend="pillow", num_workers=0).epoch(0)])
    with torch.inference_mode():
        tokens, early = model.encode(imgs), model.encode(imgs, layer=1)
    expected = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(1), "patches": tokens[:, 1:]}
    for pool, features in expected.items():
        found = extract(model, source, pool=pool, batch_size=32, backend="pillow", num_workers=0)
        assert found.features.shape == features.shape and found.features.dtype == torch.float32
        torch.testing.assert_close(found.features, features, rtol=1e-4, atol=1e-5)
        assert found.labels.tolist() == source.labels.tolist() and found.indices.tolist() == list(range(len(source)))
    found = extract(model, source, layer=1, backend="pillow", num_workers=0)
    torch.testing.assert_close(found.features, early[:, 0], rtol=1e-4, atol=1e-5)


@pytest.fixture
def pictures(tmp_path):
    """Two classes of pictures, one of which cannot be read."""
    for kind in ("a", "b"):
        (tmp_path / "pictures" / kind).mkdir(parents=True)
        for number in range(3):
            noise = np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path / "pictures" / kind / f"{number}.png")
    (tmp_path / "pictures" / "a" / "1.png").write_bytes(b"no picture")
    return tmp_path / "pictures"


NAMES, LABELS = ["a/0.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"], [0, 0, 1, 1, 1]


@pytest.mark.parametrize("pool", ["mean", "patches"])
def test_every_format_holds_the_same(checkpoint, pictures, tmp_path, capsys, pool):
    found = {}
    for suffix in ("npz", "safetensors", "parquet"):
        words = f"features --checkpoint {checkpoint} --data_path {pictures} --out {tmp_path}/f.{suffix} --pool {pool}"
        assert main(f"{words} --loader pillow --num_workers 0 --batch_size 4 --device cpu --dtype fp32".split()) == 0
        said = capsys.readouterr()
        assert "left out 1 bad images" in said.err and "a/1.png" in said.err
        assert f"f.{suffix}: 5 x {'16 x ' * (pool == 'patches')}32 numbers, 2 classes" in said.out
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        found = {name: file[name] for name in file}
    assert found["features"].dtype == np.float32 and found["labels"].tolist() == LABELS
    assert found["names"].tolist() == NAMES and found["classes"].tolist() == ["a", "b"]

    from safetensors import safe_open

    with safe_open(tmp_path / "f.safetensors", "np") as file:
        assert np.array_equal(file.get_tensor("features"), found["features"])
        assert file.get_tensor("labels").tolist() == LABELS
        assert json.loads(file.metadata()["names"]) == NAMES and json.loads(file.metadata()["classes"]) == ["a", "b"]

    table = pytest.importorskip("pyarrow.parquet").read_table(tmp_path / "f.parquet").to_pydict()
    assert table["name"] == NAMES and table["label"] == LABELS and table["class"] == ["a", "a", "b", "b", "b"]
    assert np.array_equal(np.array(table["features"], np.float32), found["features"])


def test_what_cannot_work_is_said_before_the_work(checkpoint, pictures, tmp_path, capsys, monkeypatch):
    words = f"features --checkpoint {checkpoint} --data_path {pictures} --device cpu --loader pillow".split()
    assert main([*words, "--out", f"{tmp_path}/f.csv"]) == 1
    assert "--out:" in (said := capsys.readouterr().err) and ".npz, .safetensors, .parquet" in said
    assert main([*words, "--out", f"{tmp_path}/f.npz", "--layer=9", "--num_workers=0"]) == 1
    assert "--layer: expected 0 to 2" in capsys.readouterr().err

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(extras, "import_module", missing)
    assert main([*words, "--out", f"{tmp_path}/f.parquet"]) == 1
    assert "f.parquet: needs pyarrow, which is not installed; pip install pyarrow" in capsys.readouterr().err
    assert not list(tmp_path.glob("f.*"))
