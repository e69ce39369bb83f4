"""What a measurement was asked for: the flags that all parts share, and those of one part."""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.harness.provenance import provenance
from benchmarks.harness.record import RESULTS, Record, hardware
from mae_fast.config import DTYPES, SIZES, Preset
from mae_fast.ops import backends

BATCH = {"tiny": 32, "small": 32, "base": 32, "large": 16, "huge": 8}  # of a CPU
GPU_BATCH = {"tiny": 256, "small": 256, "base": 256, "large": 128, "huge": 64}


@dataclass
class Options:
    argv: list[str]
    device: str
    presets: dict[str, Preset]
    dtypes: dict[str, torch.dtype]
    batches: list[int]  # empty: a default for each preset
    rounds: int | None
    sides: list[str]  # empty: all
    out: Path
    quick: bool
    until: float  # time.monotonic() after which nothing new is begun
    own: argparse.Namespace  # the part's own flags

    @property
    def img_size(self) -> int:
        return 32 if self.quick else 224

    def batch_of(self, preset: str) -> int:
        return self.batches_of(preset)[0]

    def batches_of(self, preset: str) -> list[int]:
        default = 4 if self.quick else (GPU_BATCH if self.device == "cuda" else BATCH)[preset]
        return self.batches or [default]

    def rounds_or(self, default: int) -> int:
        return self.rounds or (2 if self.quick else default)

    def record(self, name: str) -> Record:
        """A file of results, with the facts of this run."""
        facts = provenance(self.device, "benchmarks", self.argv)
        facts["ops"] = {op: where[self.device] for op, where in backends().items()}
        return Record(self.out / f"{name}.json", facts)

    def wants(self, side: str) -> bool:
        return not self.sides or any(word in side for word in self.sides)


def listed(read: Callable) -> Callable[[str], list]:
    """The type of a flag that takes several values with commas between."""

    def values(text: str) -> list:
        return [read(word) for word in text.split(",") if word]

    values.__name__ = f"list of {read.__name__}"
    return values


def count(text: str) -> int:
    """A whole number, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


def one_of(table: dict) -> Callable[[str], str]:
    def name(text: str) -> str:
        if text not in table:
            raise argparse.ArgumentTypeError(f"no {text}; expected some of {', '.join(table)}")
        return text

    return name


def add_arguments(parser: argparse.ArgumentParser, parts: list[str]) -> None:
    """The shared flags, and those of the parts, whose modules may have add_arguments(parser) too."""
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    add(
        "--presets",
        type=listed(one_of(SIZES)),
        metavar="NAMES",
        help=f"of {', '.join(SIZES)} (default: small,base,large)",
    )
    add("--dtypes", type=listed(one_of(DTYPES)), default=["bf16"], metavar="NAMES", help="of fp32, bf16, fp16")
    add(
        "--batch", type=listed(count), default=[], metavar="N,...", help="images a step (default: by preset and device)"
    )
    add("--rounds", type=count, help="that count; each part has its default")
    add(
        "--sides",
        type=listed(str),
        default=[],
        metavar="WORDS",
        help="only sides with one of these words in their names",
    )
    add("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results/<hardware>)")
    add("--seconds", type=float, default=float("inf"), help="begin nothing new after so long")
    add("--quick", action="store_true", help="a toy size and few rounds: shows that it runs, measures nothing")
    for part in parts:
        if own := getattr(import_module(f"benchmarks.parts.{part}"), "add_arguments", None):
            own(parser)


def parse(parser: argparse.ArgumentParser, args: argparse.Namespace, argv: list[str]) -> Options:
    """Checked options; a wrong one ends in the parser's error."""
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    names = args.presets or (["tiny"] if args.quick else ["small", "base", "large"])
    folder = hardware(args.device) + ("-quick" if args.quick else "")
    return Options(
        argv, args.device, {name: SIZES[name] for name in names}, {name: DTYPES[name] for name in args.dtypes},
        args.batch, args.rounds, args.sides, args.out or RESULTS / folder, args.quick,
        time.monotonic() + args.seconds, args,
    )  # fmt: skip


def of(argv: list[str]) -> Options:
    """The options of a command line whose first word is the part."""
    parser = argparse.ArgumentParser(prog=f"mae-fast bench {argv[0]}")
    add_arguments(parser, argv[:1])
    return parse(parser, parser.parse_args(argv[1:]), argv)
