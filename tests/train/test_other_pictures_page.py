"""The commands and the Python of docs/other_pictures.md run, with a tiny model, one epoch and small pictures."""

import re
import shlex
from pathlib import Path

import torch

from mae_fast.cli import main
from tests.data.other_pictures import write_tiles, write_xrays

PAGE = (Path(__file__).parents[2] / "docs" / "other_pictures.md").read_text()
COMMANDS = "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.M | re.S)).replace("\\\n", " ").strip().split("\n")
TINY = {"model": "mae_vit_tiny_patch8", "batch_size": 4, "epochs": 1, "device": "cpu", "num_workers": 0}


def test_the_page_runs_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_xrays(tmp_path / "XRAYS", 4)
    write_tiles(tmp_path / "TILES", 4)
    (tmp_path / "TILES" / "00.tif").rename(tmp_path / "TILES" / "a.tif")
    assert len(COMMANDS) == 9
    for line in COMMANDS:
        words = shlex.split(line.replace("checkpoint-399", "checkpoint-0"))
        if words[1] == "pretrain":
            words += [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
            words += ["--warmup_epochs", "0", "--input_size", "32", *(["48"] if "256" in words else [])]
        assert words[0] == "mae-fast" and main(words[1:]) == 0, line

    [snippet] = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)  # with the run that the commands left
    names = {}
    exec(snippet.replace("checkpoint-399", "checkpoint-0").replace("source, 64, 224", "source, 4, 24"), names)
    assert names["features"].shape == (1, 17, 96)
    imgs, _ = next(names["loader"].epoch(0))
    assert imgs.dtype == torch.float32 and imgs.shape == (4, 12, 24, 24)
