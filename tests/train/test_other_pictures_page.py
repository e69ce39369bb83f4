"""The commands and the Python of docs/other_pictures.md run, with a tiny model, one epoch and small pictures."""

import re
import shlex
from pathlib import Path

import pytest
import torch

from mae_fast.cli import main
from tests.data.other_pictures import write_tiles, write_xrays

PAGE = (Path(__file__).parents[2] / "docs" / "other_pictures.md").read_text()
BLOCKS = [
    block.replace("\\\n", " ").strip().split("\n") for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)
]
TINY = ["--model", "mae_vit_tiny_patch8", "--batch_size", "4", "--epochs", "1", "--warmup_epochs", "0", "--device",
        "cpu", "--num_workers", "0"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    write_xrays(folder / "XRAYS", 4)
    write_tiles(folder / "TILES", 4)
    (folder / "TILES" / "00.tif").rename(folder / "TILES" / "a.tif")
    return folder


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_commands_run_as_written(number, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for line in BLOCKS[number]:
        words = shlex.split(line.replace("checkpoint-399", "checkpoint-0"))
        if words[1] == "pretrain":
            words += TINY + ([] if "--input_size" in words else ["--input_size", "32"])
            words += ["--input_size", "32", "48"] if "256" in words else []
        assert words[0] == "mae-fast" and main(words[1:]) == 0, line


def test_the_python_runs_as_written(folder, monkeypatch):
    monkeypatch.chdir(folder)  # after the commands, which leave the run of the tiles
    [snippet] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    names = {}
    exec(snippet.replace("checkpoint-399", "checkpoint-0").replace("source, 64, 224", "source, 4, 24"), names)
    assert names["features"].shape == (1, 17, 96)
    imgs, _ = next(names["loader"].epoch(0))
    assert imgs.dtype == torch.float32 and imgs.shape == (4, 12, 24, 24)
