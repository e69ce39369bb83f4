"""What a measurement was asked for: the flags that all parts share."""

import argparse
import re
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.provenance import provenance
from benchmarks.record import RESULTS, Record, hardware
from mae_fast.config import SIZES, Preset
from mae_fast.ops import backends
from mae_fast.parity.cases import DTYPES

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
    official: Path | None
    images: Path | None
    sides: list[str]  # empty: all
    ranks: list[int]
    shapes: list[tuple[int, ...]]  # of attention; empty: a default for each device
    keep: bool
    out: Path
    quick: bool
    until: float  # time.monotonic() after which nothing new is begun

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cuda", "cpu"])
    add("--presets", help=f"of {', '.join(SIZES)}, with commas (default: small,base,large)")
    add("--dtypes", default="bf16", help="of fp32, bf16, fp16, with commas")
    add("--batch", default="", help="images a step, with commas for several (default: by preset and device)")
    add("--rounds", type=int, help="that count; each part has its default")
    add("--official", type=Path, metavar="DIR", help="a clone of facebookresearch/mae, unmodified")
    add("--images", type=Path, metavar="DIR", help="pictures for data (default: a sample is written)")
    add("--sides", default="", help="only sides with one of these words in their names, with commas")
    add("--ranks", default="1,2", help="numbers of processes for scaling, with commas")
    add(
        "--shapes",
        default="",
        help="of attention: images x heads x tokens x width of a head, as 32x12x50x64, with commas",
    )
    add("--keep", action="store_true", help='of attention: write what attention="auto" reads on this GPU')
    add("--out", type=Path, metavar="DIR", help="where results go (default: benchmarks/results/<hardware>)")
    add("--seconds", type=float, default=float("inf"), help="begin nothing new after so long")
    add("--quick", action="store_true", help="a toy size and few rounds: shows that it runs, measures nothing")


def parse(parser: argparse.ArgumentParser, args: argparse.Namespace, argv: list[str]) -> Options:
    """Checked options; a wrong one ends in the parser's error."""
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    names = (args.presets or ("tiny" if args.quick else "small,base,large")).split(",")
    batches = []
    try:
        presets = {name: SIZES[name] for name in names}
        dtypes = {name: DTYPES[name] for name in args.dtypes.split(",")}
        batches, ranks = ([int(n) for n in text.split(",") if n] for text in (args.batch, args.ranks))
    except KeyError as error:
        parser.error(f"no {error.args[0]}; presets are {', '.join(SIZES)}, dtypes {', '.join(DTYPES)}")
    except ValueError as error:
        parser.error(f"--batch, --ranks: expected whole numbers with commas ({error})")
    if args.shapes and not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){3}(,[1-9]\d*(x[1-9]\d*){3})*", args.shapes):
        parser.error(f"--shapes: expected four numbers a shape, as 32x12x50x64,8x12x197x64; got {args.shapes}")
    shapes = [tuple(int(n) for n in shape.split("x")) for shape in args.shapes.split(",") if shape]
    if any(n < 1 for n in [*batches, *ranks, 1 if args.rounds is None else args.rounds]):
        parser.error("--batch, --ranks, --rounds: expected at least 1")
    folder = hardware(args.device) + ("-quick" if args.quick else "")
    return Options(
        argv, args.device, presets, dtypes, batches, args.rounds, args.official, args.images,
        [word for word in args.sides.split(",") if word], ranks, shapes, args.keep, args.out or RESULTS / folder,
        args.quick, time.monotonic() + args.seconds,
    )  # fmt: skip
