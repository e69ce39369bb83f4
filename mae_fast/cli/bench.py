"""`mae-fast bench`: the benchmarks of the clone that this package was imported from, in a process of their own."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if not (ROOT / "benchmarks" / "__main__.py").is_file():
        raise ImportError(
            "the benchmarks are not part of the installed package; clone the repository and "
            "`pip install --no-build-isolation -e .` there"
        )
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "benchmarks", *args.words[args.words.index("bench") + 1 :]]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}).returncode
