"""Builds mae_fast, mae_fast_kernels (from kernels/) and, given torch and a compiler, mae_fast._C* (from csrc/).

    pip install --no-build-isolation -e .

Without torch at build time or without a C++20 compiler the install goes through, and the package says at the first CPU
tensor what is missing: the C++ kernels only make it faster.
"""

import os
import sys
import sysconfig
from glob import glob

from setuptools import find_packages, setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    extensions, commands = [], {}
    print("mae_fast: no torch in the build environment, so no C++ kernels (use --no-build-isolation)", file=sys.stderr)
else:

    class OptionalBuild(BuildExtension):
        """A failed compile leaves the package without that extension, not the user without the package."""

        def build_extension(self, extension):
            shared, self.build_temp = self.build_temp, os.path.join(self.build_temp, extension.name)
            try:
                super().build_extension(extension)
            except Exception as error:
                print(f"mae_fast: {extension.name} was not built: {error}", file=sys.stderr)
                self.failed.append(extension)
            self.build_temp = shared

        def run(self):
            self.failed = []
            try:
                super().run()
            except Exception as error:
                print(f"mae_fast: the C++ kernels were not built: {error}", file=sys.stderr)
                self.failed = self.extensions
            self.extensions = [e for e in self.extensions if e not in self.failed]

    # One extension an instruction set, from the same sources, with PyTorch's own flags: mae_fast/ops/builds.py imports
    # the one for the machine it runs on. Never flags per file: an inline function of a header compiled for AVX-512 in
    # one file may be the copy the linker keeps for all.
    INSTRUCTION_SETS = {"_C": ("DEFAULT", [])}
    if sysconfig.get_platform().endswith(("x86_64", "amd64")):
        avx512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"]
        INSTRUCTION_SETS |= {
            "_C_avx2": ("AVX2", ["-mavx2", "-mfma", "-mf16c"]),
            "_C_avx512": ("AVX512", avx512),
            "_C_avx512_bf16": ("AVX512", [*avx512, "-mavx512bf16"]),  # rounds to bfloat16 in one instruction, not nine
        }
    # GCC and Clang; at::parallel_for is serial without -fopenmp. PyTorch 2.11 would ask for C++17.
    # No strict aliasing: attention moves two bfloat16 as one float.
    flags = ["-std=c++20", "-O3", "-fopenmp", "-fno-math-errno", "-fno-strict-aliasing"]
    flags += ["-Wall", "-Wno-unknown-pragmas", "-Wno-psabi", "-Wno-uninitialized"]  # the last: GCC 12's own headers
    if "CFLAGS" not in os.environ:
        flags.append("-g0")  # Python's own -g takes a quarter of the time and 14 MB a build
    extensions = [
        CppExtension(
            f"mae_fast.{name}",
            sorted(glob("csrc/*.cpp")),
            extra_compile_args=[*flags, *machine, f"-DCPU_CAPABILITY={capability}", f"-DCPU_CAPABILITY_{capability}"],
            extra_link_args=["-fopenmp"],
            depends=sorted(glob("csrc/*.h")),
        )
        for name, (capability, machine) in INSTRUCTION_SETS.items()
    ]
    commands = {"build_ext": OptionalBuild}

setup(
    packages=[*find_packages(include=["mae_fast*"]), "mae_fast_kernels"],
    package_dir={"mae_fast_kernels": "kernels"},
    ext_modules=extensions,
    cmdclass=commands,
)
