"""The commands of README.md run as they are written; those of docs/ and the example of each --help are parsed."""

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import __main__ as bench
from mae_fast import cli
from mae_fast.config import TINY
from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic
from mae_fast.model import MaskedAutoencoderViT

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(?:sh|bash)\n(.*?)^```", re.M | re.S)


def commands(page: Path) -> list[str]:
    lines = "".join(BLOCK.findall(page.read_text())).replace("\\\n", " ").splitlines()
    words = [(line, shlex.split(line, comments=True)) for line in lines]
    return [shlex.join(found) for _, found in words if found]


README = commands(ROOT / "README.md")
DOCS = [line for page in sorted((ROOT / "docs").glob("*.md")) for line in commands(page) if "mae_fast" in line or
        line.startswith("mae-fast")]  # fmt: skip
# What is not run here, by how it begins, and why. Of mae-fast's the arguments are read all the same.
NOT_RUN = {
    "make ": "sets up an environment and takes minutes; make demo is the last check of a release",
    "pip install": "changes the environment that tests run in",
    "torchrun": "wants eight GPUs; tests/train starts ranks",
    "mae-fast bench": "measures for minutes; tests/benchmarks runs each part small",
}
# What is appended, so that a command takes seconds: the last of two flags counts.
SHORT = ["--epochs=1", "--warmup_epochs=0", "--batch_size=4", "--input_size=32", "--device=cpu", "--num_workers=0",
         "--loader=pillow"]  # fmt: skip
SMALLER = {
    "pretrain": [*SHORT, "--model=mae_vit_tiny_patch8"],
    "finetune": SHORT,
    "linprobe": SHORT,
    "parity": ["--preset=tiny", "--dtype=fp32", "--device=cpu"],
}


def starts(line: str) -> str | None:
    return next((start for start in NOT_RUN if line.startswith(start)), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the pages name: pictures of two classes, a checkpoint, logs, a clone's benchmarks."""
    place = tmp_path_factory.mktemp("place")
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        for name in ("one", "two"):
            folder = place / "IMAGES" / split / name
            folder.mkdir(parents=True)
            for i in range(12):
                pixels = draw.integers(0, 255, (40, 48, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.jpg")
    model = MaskedAutoencoderViT(**TINY.kwargs(), img_size=32)
    out = place / "output_dir"
    out.mkdir()
    save_atomic(
        {"model": model.state_dict(), "mae_fast": {"config": layouts.describe(model)}}, out / "checkpoint-799.pth"
    )
    shutil.copy(out / "checkpoint-799.pth", place)
    line = {"train_lr": 1e-3, "train_loss": 1.0, "epoch": 0}
    for log in (out / "log.txt", place / "log.txt", place / "theirs.txt"):
        log.write_text(json.dumps(line) + "\n" + json.dumps(line | {"epoch": 1}) + "\n")
    return place


@pytest.mark.parametrize("line", [line for line in README if not starts(line)])
def test_a_command_of_readme_runs(line, place, monkeypatch):
    monkeypatch.chdir(place)
    program, command, *words = shlex.split(line)
    assert program == "mae-fast"
    smaller = SMALLER.get(command, []) if words[:1] != ["curve"] else []
    assert cli.main([command, *words, *smaller]) == 0
    written = [words[i + 1] for i, word in enumerate(words) if word in ("--out", "--output_dir")]
    assert all((place / name).exists() for name in written)


@pytest.mark.parametrize("line", [line for line in [*README, *DOCS] if starts(line) or line in DOCS])
def test_the_arguments_of_other_commands_are_read(line, monkeypatch, capsys):
    words = [word for word in shlex.split(line) if word != "..."]
    if words[0] == "torchrun":
        words = ["mae-fast", *words[words.index("mae_fast") + 1 :]]
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["mae-fast", "bench"]:
        assert read_by_bench(words[2:], monkeypatch) == 0
    elif words[0] == "mae-fast":
        cli.parse(words[1:])
    else:
        assert words[0] in ("pip", "git", "srun"), f"{line}: what is it? Say how it is tested"


def read_by_bench(words: list[str], monkeypatch) -> int:
    """Read them as `mae-fast bench` does, and measure nothing."""
    if words[0] == "--model-only":
        return bench.main(words)
    kind = "reports" if words[0].replace("-", "_") in bench.REPORTS else "parts"
    monkeypatch.setattr(f"benchmarks.{kind}.{words[0].replace('-', '_')}.run", lambda options: 0)
    return bench.main(words)


def test_what_is_not_run_is_in_readme():
    assert {starts(line) for line in README} - {None} == set(NOT_RUN)
    assert len(README) > 25 and len(DOCS) > 10


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_a_command_ends_with_an_example_that_fits(name, capsys):
    if name == "bench":  # its own parser, with examples at the top
        assert "mae-fast bench compare A.json B.json" in bench.__doc__
        return
    with pytest.raises(SystemExit) as left:
        cli.parse([name, "--help"])
    example = capsys.readouterr().out.splitlines()[-1]
    assert left.value.code == 0 and example.startswith(f"example: mae-fast {name} ")
    assert cli.parse(shlex.split(example)[2:]).command == name
