"""`mae-fast parity`: the numerical check a user runs on their own machine."""

import argparse
import json
import platform
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import product
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from mae_fast.cli.arguments import positive
from mae_fast.config import DTYPES, SIZES, STREAMS, dtype_name
from mae_fast.files import layouts
from mae_fast.files.atomic import write_atomic
from mae_fast.files.checkpoint import load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.ops import backends, kernels
from mae_fast.parity import curve, model
from mae_fast.parity import op as ops
from mae_fast.parity.cases import CASES, Case, preset_cases
from mae_fast.parity.rule import Row, poisoned_memory
from mae_fast.parity.training import Training, train

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--device", default=DEVICE, choices=["cpu", "cuda"])
    add("--dtype", nargs="+", default=["fp32", "bf16"], choices=DTYPES, metavar="DTYPE", help="of fp32, bf16, fp16")
    add("--preset", default="base", choices=SIZES, help="model whose shapes and whole step are checked, from scratch")
    add("--checkpoint", metavar="FILE", help="check this model in place of a preset")
    add("--batch", type=positive, default=2, help="images")
    add("--stream", default="auto", choices=STREAMS, help="type of the residual stream with bf16 products")
    add("--json", type=Path, metavar="FILE", help="every row, with its errors")
    parser.set_defaults(run=run)

    modes = parser.add_subparsers(metavar="curve")
    two = modes.add_parser("curve", help="hold two loss curves together")
    add = two.add_argument
    add("logs", nargs="*", metavar="LOG", help="two logs; with none, the reference and the fast path are trained")
    add("--relative", type=float, default=curve.RELATIVE, help="mean relative difference that passes")
    add("--absolute", type=float, default=curve.ABSOLUTE, help="mean absolute difference that passes")
    add("--images", metavar="FOLDER", help="train on these pictures (default: smooth random ones)")
    add("--preset", default="tiny", choices=SIZES)
    add("--img_size", type=positive, default=96)
    add("--steps", type=positive, default=200)
    add("--batch", type=positive, default=32)
    add("--lr", type=float, default=Training.lr)
    add("--dtype", default="bf16", choices=DTYPES, help="of the fast path; the reference trains in float32")
    add("--device", default=DEVICE, choices=["cpu", "cuda"])
    add("--stream", default="auto", choices=STREAMS, help="the fast path's residual stream with bf16 products")
    add("--seeds", type=positive, default=1, help="with more than one, ours is held to plain autocast's difference")
    add("--compile", action="store_true")
    add("--json", type=Path, metavar="FILE", help="both curves and the verdict")
    add("--picture", type=Path, metavar="FILE", help="both curves, as .png or .svg")
    two.set_defaults(run=run_curve)


def run(args: argparse.Namespace) -> int:
    """Check every op and the whole model; 1 where anything fails."""
    _check_device(args.device)
    torch.backends.cudnn.allow_tf32 = False  # or the reference's convolution would not be float32
    dtypes = [DTYPES[name] for name in args.dtype]
    if args.checkpoint:
        fast = load_pretrained(args.checkpoint).to(args.device)
        fast.require_decoder()
        kwargs, cases = _arguments(fast), CASES
    else:
        preset = SIZES[args.preset]
        kwargs = preset.kwargs() | {"norm_pix_loss": True}
        torch.manual_seed(0)
        fast = MaskedAutoencoderViT(**kwargs).to(args.device)
        cases = [*CASES, *preset_cases(preset, args.batch).values()]
    fast.stream = STREAMS[args.stream]
    print(f"kernels: {kernels(args.device)}")
    rows, about = model.check(fast, kwargs, dtypes, args.batch), facts(args.device)
    for more in check_ops(cases, dtypes, args.device):
        rows += more
        _write_json(args.json, {"facts": about, "rows": [row.as_dict() for row in rows]})  # in case it is stopped
    print(table(rows))
    failed = [row for row in rows if not row.holds]
    for row in failed:
        errors = f"error {row.error:.2e}, allowed {row.allowed:.2e}"
        print(f"FAILS: {row.what}, {row.dtype}, {row.result}: {errors} {row.note}".rstrip())
    print(f"{len(rows)} results, {len(failed)} fail. The rule: err(ours) <= 2 err(plain PyTorch) + floor, to float64")
    return 1 if failed else 0


def check_ops(cases: list[Case], dtypes: list[torch.dtype], device: str) -> Iterator[list[Row]]:
    """The rows of each case in turn."""
    with poisoned_memory():
        for dtype, case in tqdm(list(product(dtypes, cases)), unit=" cases", leave=False):
            try:
                yield ops.check(case, dtype, device)
            except Exception as error:  # an op that cannot run fails like one that is wrong
                name, note = dtype_name(dtype), f"{type(error).__name__}: {error}"
                yield [Row(str(case), name, "call", float("inf"), 0.0, 0.0, note)]


def table(rows: list[Row]) -> str:
    """A line an op (or the model) and dtype: its worst result, the one nearest to or furthest past what is allowed."""
    groups = defaultdict(list)
    for row in rows:
        groups[row.what.split("-")[0], row.dtype].append(row)
    lines = [f"{'':16} {'':9} {'results':>7}  {'ours':>8} {'plain':>8} {'ratio':>6}  worst"]
    for (what, dtype), members in groups.items():
        worst = max(members, key=lambda row: (not row.holds, row.of_allowed))
        ratio = "" if worst.ratio is None else f"{worst.ratio:.2f}"
        lines.append(
            f"{what:16} {dtype:9} {len(members):7}  {worst.error:8.1e} {worst.plain:8.1e} {ratio:>6}  "
            f"{'holds' if worst.holds else 'FAILS'}, {worst.result}"
        )
    return "\n".join(lines)


def run_curve(args: argparse.Namespace) -> int:
    """Compare two logs, or train both sides; 1 where the curves part."""
    if args.logs:
        if len(args.logs) != 2:
            raise ValueError(f"curve: expected two logs, or none to train both sides; got {len(args.logs)}")
        difference, curves = curve.compare_logs(*args.logs, args.relative, args.absolute)
    else:
        _check_device(args.device)
        how = Training(
            SIZES[args.preset], args.img_size, args.steps, args.batch, DTYPES[args.dtype], args.device, args.compile,
            STREAMS[args.stream], args.images, args.lr,
        )  # fmt: skip
        if args.seeds > 1:
            return run_seeds(args, how)
        curves = train(how)
        difference = curve.compare(*curves.values(), args.relative, args.absolute)
    for name, losses in curves.items():
        print(f"{name}: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    print(difference)
    verdict = {"mean_relative": difference.relative, "mean_absolute": difference.absolute, "holds": difference.holds}
    _write_json(args.json, {"facts": facts(args.device), **verdict, "curves": curves})
    if args.picture:
        curve.draw(curves, str(difference), args.picture)
    return 0 if difference.holds else 1


def run_seeds(args: argparse.Namespace, how: Training) -> int:
    """Train three sides from each seed; 1 where ours is further from float32 than plain autocast by the factor."""
    runs = []
    for seed in range(args.seeds):
        runs.append(train(how, seed, with_autocast=True))
        print("seed {}: mean relative difference {:.2e}, autocast's {:.2e}".format(seed, *curve.over_seeds(runs[-1:])))
    ours, theirs = curve.over_seeds(runs)
    holds = ours <= curve.OF_AUTOCAST * theirs
    print(
        f"{args.seeds} seeds: {ours:.2e}, {ours / theirs:.2f} times plain autocast's {theirs:.2e} "
        f"(allowed {curve.OF_AUTOCAST}): {'holds' if holds else 'FAILS'}"
    )
    verdict = {"mean_relative": ours, "of_autocast": ours / theirs, "holds": holds}
    _write_json(args.json, {"facts": facts(args.device), **verdict, "curves": runs})
    if args.picture:
        curve.draw({side: runs[0][side] for side in ("plain", "fast")}, f"seed 0 of {args.seeds}", args.picture)
    return 0 if holds else 1


def facts(device: str) -> dict:
    """What was checked: device, versions, command."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine(),
        "mae_fast": version("mae_fast"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "ops": {op: where[device] for op, where in backends().items()},
        "command": shlex.join(["mae-fast", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M %z"),
    }


def _arguments(fast: MaskedAutoencoderViT) -> dict:
    """What the reference is made with to be the same model."""
    kwargs = layouts.describe(fast)
    eps = kwargs.pop("norm_eps")
    kwargs = {name: value for name, value in kwargs.items() if name not in ("pixel_type", "value_range")}
    return kwargs | {"img_size": tuple(kwargs["img_size"]), "norm_layer": partial(nn.LayerNorm, eps=eps)}


def _check_device(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: PyTorch finds no CUDA device here; use --device cpu")


def _write_json(path: Path | None, content: dict) -> None:
    if path:
        write_atomic(path, lambda file: file.write((json.dumps(content, indent=1) + "\n").encode()))
