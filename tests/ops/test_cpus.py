"""The C++ kernels on other CPUs than this one: older builds, oneDNN without its newest instructions, machine code that
keeps to its instruction set, and, by `make test-cpus`, older CPUs emulated.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mae_fast
from mae_fast.ops.builds import best_build
from mae_fast.parity.cases import CASES

ROOT = Path(__file__).parents[2]
BUILDS = {path.name.split(".")[0]: path for path in Path(mae_fast.__file__).parent.glob("_C*.so")}
MACHINE = torch.backends.cpu.get_cpu_capability()
pytestmark = pytest.mark.skipif("_C" not in BUILDS, reason="the C++ kernels are not built")


def parity_elsewhere(build, environment=None, cases="not 1024", command=()):
    """The parity cases of test_ops.py in a process of their own, which must load `build`."""
    chosen = f"test_loaded_build or test_parity and cpu and {cases}"
    done = subprocess.run(
        [*command, sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen, "tests/ops/test_ops.py"],
        cwd=ROOT,
        env=os.environ | {"MAE_FAST_BUILD": f"/{build}."} | (environment or {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


@pytest.mark.parametrize("asked, build, able", [("avx2", "_C_avx2", ["AVX2", "AVX512"]), ("default", "_C", [MACHINE])])
def test_older_builds(asked, build, able):
    if MACHINE not in able:
        pytest.skip(f"this machine is {MACHINE}")
    parity_elsewhere(build, {"ATEN_CPU_CAPABILITY": asked})


# Neither has bfloat16 brgemm: of AVX2 PyTorch says so, of AVX-512 without bfloat16 only oneDNN, by another exception.
@pytest.mark.parametrize("isa", ["AVX2", "AVX512_CORE"])
def test_older_onednn(isa):
    if MACHINE != "AVX512":
        pytest.skip(f"this machine is {MACHINE}")
    parity_elsewhere(best_build(), {"ONEDNN_MAX_CPU_ISA": isa}, cases="attention and not 1024 and not fp16")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("case", [c for c in CASES if c.op == "attention" and c.shape["N"] < 1000], ids=str)
def test_without_onednn(case, dtype, assert_parity):
    with torch.backends.mkldnn.flags(enabled=False):
        assert_parity(case, dtype, "cpu")


# What a build may not contain: any AVX; AVX-512, its masks and its upper 16 registers; what newer CPUs add to AVX-512.
TOO_NEW = {
    "_C": r"\tv\w+ .*%[xyz]mm|%k[0-7]\b",
    "_C_avx2": r"%zmm|%k[0-7]\b|%[xy]mm(1[6-9]|[23]\d)",
    "_C_avx512": r"\t(vcvtne2?ps2bf16|vdpbf16ps|vpdp\w+|t(dp|ile)\w+|v\w+[ps]h) ",
    "_C_avx512_bf16": r"\t(vpdp\w+|t(dp|ile)\w+|v\w+[ps]h) ",
}


@pytest.mark.skipif(not shutil.which("objdump"), reason="needs objdump")
@pytest.mark.parametrize("build", BUILDS)
def test_machine_code_keeps_to_its_instruction_set(build):
    code = (
        subprocess.run(
            ["objdump", "-d", "--no-show-raw-insn", BUILDS[build]], capture_output=True, text=True, check=True
        )
        .stdout.replace("vcvtps2ph ", "f16c ")
        .replace("vcvtph2ps ", "f16c ")
    )
    assert code.count("\n") > 10_000
    found = [line for line in code.splitlines() if re.search(TOO_NEW[build], line)]
    assert not found, found[:10]


# Nehalem (2008): the oldest that NumPy's wheel runs on, PyTorch's needs less. Haswell (2013): the first with AVX2.
@pytest.mark.emulated
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="needs qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.parametrize("model, build", [("Nehalem", "_C"), ("Haswell", "_C_avx2")])
def test_emulated(model, build):
    command = ["qemu-x86_64", "-cpu", model]
    parity_elsewhere(build, cases="not 1024 and not 257 and not fp16", command=command)
