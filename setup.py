"""Builds mae_fast, mae_fast_kernels (from kernels/) and, given torch and a compiler, mae_fast._C (from csrc/).

    pip install --no-build-isolation -e .

Without torch at build time or without a C++20 compiler the install goes through and the package says at import what is
missing: the C++ kernels only make it faster.
"""

import sys
from glob import glob

from setuptools import setup

try:
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError:
    extensions, commands = [], {}
    print("mae_fast: no torch in the build environment, so no C++ kernels (use --no-build-isolation)", file=sys.stderr)
else:

    class OptionalBuild(BuildExtension):
        """A failed compile leaves the package without the extension, not the user without the package."""

        def run(self):
            try:
                super().run()
            except Exception as error:
                print(f"mae_fast: the C++ kernels were not built: {error}", file=sys.stderr)
                self.extensions = []

    # GCC and Clang; at::parallel_for is serial without -fopenmp.
    flags = ["-O3", "-fopenmp", "-fno-math-errno", "-Wall", "-Wno-unknown-pragmas"]
    sources = sorted(glob("csrc/*.cpp"))
    extensions = [CppExtension("mae_fast._C", sources, extra_compile_args=flags, extra_link_args=["-fopenmp"])]
    commands = {"build_ext": OptionalBuild}

setup(
    packages=["mae_fast", "mae_fast.data", "mae_fast_kernels"],
    package_dir={"mae_fast_kernels": "kernels"},
    ext_modules=extensions,
    cmdclass=commands,
)
