"""Compiled for three GPU generations on a machine with none: no spills, shared memory in bounds, 16-byte accesses."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("triton")
from benchmarks.aot import SHARED_LIMIT


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    file = tmp_path_factory.mktemp("aot") / "aot.json"
    # A process of its own: here Triton may be in interpreter mode.
    subprocess.run([sys.executable, "-m", "benchmarks.aot", "--json", file], check=True, stdout=subprocess.DEVNULL)
    return json.loads(file.read_text())


def test_every_kernel_is_compiled_for_every_target(rows):
    names = {"_random_masking_fwd_kernel"}
    names |= {f"_{op}_{d}_kernel" for op in ("gather_patches", "unshuffle", "masked_mse") for d in ("fwd", "bwd")}
    assert {(row["kernel"], row["target"]) for row in rows} == {(name, t) for name in names for t in SHARED_LIMIT}


def test_nothing_spills_and_everything_fits(rows):
    assert not [row for row in rows if row["spilled"] or row["shared"] > SHARED_LIMIT[row["target"]]]


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
