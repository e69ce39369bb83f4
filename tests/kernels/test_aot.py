"""Compiled for three GPU generations on a machine with none: no spills, shared memory in bounds, 16-byte accesses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
from benchmarks.aot import SHARED_LIMIT

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "benchmarks/results/aot/sm80-sm90-sm100.json"


ATTENTION = "N=50 Dh=64 bfloat16|N=197 Dh=32 bfloat16"  # two of a dozen shapes: the rest takes minutes


@pytest.fixture(scope="module")
def all_rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("aot") / "aot.json"
    # A process of its own: here Triton may be in interpreter mode.
    command = [sys.executable, "-m", "benchmarks.aot", "--match", f"(?!N=)|{ATTENTION}", "--json", file]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


@pytest.fixture
def rows(all_rows):
    return [row for row in all_rows if "attention" not in row["kernel"]]


@pytest.fixture(params=["compiled", "committed"])
def attention_rows(request, all_rows):
    """The two shapes as they compile here, and the committed table of all."""
    rows = all_rows if request.param == "compiled" else json.loads(TABLE.read_text())
    return [row for row in rows if "attention" in row["kernel"]]


def test_every_kernel_is_compiled_for_every_target(rows):
    files = [path for path in (ROOT / "kernels").glob("*.py") if not path.stem.startswith("attention")]
    names = {name for path in files for name in re.findall(r"^def (_\w+_kernel)\(", path.read_text(), re.M)}
    assert {(row["kernel"], row["target"]) for row in rows} == {(name, t) for name in names for t in SHARED_LIMIT}


def test_nothing_spills_and_everything_fits(all_rows, attention_rows):
    rows = [*all_rows, *attention_rows]
    assert not [row for row in rows if row["spilled"] or row["shared"] > SHARED_LIMIT[row["target"]]]


def test_attention_is_multiplied_by_the_tensor_cores_of_each_generation(attention_rows):
    units = {80: "mma.sync", 90: "wgmma.mma_async", 100: "tcgen05.mma"}
    halves = [row for row in attention_rows if "float32" not in row["case"]]
    assert len(halves) >= 12 and all(units[row["target"]] in row["tensor_core"] for row in halves)
    assert all(row["load"] == row["store"] == 16 for row in halves)
    # float32 is multiplied as such, on no tensor core
    assert not any(row["tensor_core"] for row in attention_rows if row not in halves)


def test_the_decoders_heads_are_held_whole(attention_rows):
    """The shape training spends most of its attention on: one softmax, scores formed once in the backward."""
    kernels = {(r["target"], r["kernel"]) for r in attention_rows if r["case"] == "N=197 Dh=32 bfloat16"}
    assert {(90, "_attention_fwd_kernel"), (90, "_attention_bwd_kernel")} <= kernels


def test_streaming_kernels_move_16_bytes_at_a_time(rows):
    """Patches of 16 and rows of the decoder. Patches of 14 start at any even byte: theirs are narrower."""
    rows = [row for row in rows if row["kernel"] != "_random_masking_fwd_kernel" and "p=14" not in row["case"]]
    assert len(rows) > 50 and not [row for row in rows if row["store"] < 16]
    # Planes of an image are read number by number through the cache (kernels/patches.py), and so is their gradient.
    planar = [row for row in rows if row["load"] < 16]
    assert {(row["kernel"], row["case"].split(",")[0]) for row in planar} == {
        ("_gather_patches_fwd_kernel", "p=16 float32 NCHW"),
        ("_gather_patches_bwd_kernel", "p=16 bfloat16"),
    }


def test_a_gpu_without_wgmma_or_tensor_memory_spills_nothing(tmp_path):
    """12.0 comes after 9.0 and multiplies as 8.0 does, with 99 KiB of shared memory a program: the decoder's heads."""
    file = tmp_path / "aot.json"
    command = [sys.executable, "-m", "benchmarks.aot", "--targets", "120", "--match", "N=197 Dh=32 b|N=257 Dh=32 b"]
    subprocess.run([*command, "--json", file], check=True, stdout=subprocess.DEVNULL)
    rows = json.loads(file.read_text())
    assert len(rows) == 4 and not [row for row in rows if row["spilled"] or row["shared"] > 99 * 1024]
