"""mae-fast bench: how fast, beside whom, and how far from what the machine can do.

    mae-fast bench PART [--presets ...] [--dtypes ...] [--batch ...]     a part below, or all
    mae-fast bench gpu-report --minutes 9 [--official DIR]     everything, for a machine that is lent for ten minutes
    mae-fast bench compare A.json B.json                       exit code 1 on a regression
    mae-fast bench plots [DIR], mae-fast bench readme          draw and tabulate what is under results/
    mae-fast bench --model-only                                the roofline: no measurement, no GPU

What is measured, a file each: ops.py, train.py (a whole step), data.py, memory.py, scaling.py (batch and ranks),
waterfall.py (what each change brings), attention.py, fp8_curve.py. Against what: limits.py (copy, matrix products, JPEG
decoding), products.py and flops.py (those of a step), cost.py (least bytes of an op), roofline.py (datasheets),
peers.py and official_shim.py (who else). How: options.py, timing.py (turns, clocks, noise), provenance.py, record.py
(JSON and CSV), table.py, plots.py, readme.py. step_memory.py: what a step keeps, to the byte. aot.py: what the Triton
kernels compile to, with no GPU; tune_attention.py: what else they could be launched with, on one. Nothing is timed
before it has passed the parity rule (mae_fast.parity).
"""

import argparse
import sys
from importlib import import_module

from benchmarks import options as shared

PARTS = {
    "ops": "each fused op, beside its reference compiled, against a copy and its products",
    "train": "a training step beside the peers, against its own matrix products",
    "data": "loaders, against decoding alone",
    "memory": "peak memory of a step beside the peers, against what training must hold",
    "scaling": "our step at several batch sizes and on several processes",
    "waterfall": "from the plain reference to the fast step, one change a bar",
    "attention": "attention alone, beside SDPA in all its kinds and xformers",
    "limits": "copy bandwidth, matrix rate at the model's shapes, JPEG decoding",
}


def main(argv: list[str]) -> int:
    if argv[:1] == ["--model-only"]:
        return import_module("benchmarks.roofline").main(argv[1:]) or 0
    parser = argparse.ArgumentParser(
        prog="mae-fast bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="PART")
    parts = {}
    for name, text in (PARTS | {"all": "ops, train, data, memory"}).items():
        parts[name] = commands.add_parser(name, help=text)
        shared.add_arguments(parts[name])
    for name in ("gpu-report", "compare", "plots", "readme"):
        module = import_module(f"benchmarks.{name.replace('-', '_')}")
        command = commands.add_parser(name, help=module.__doc__.split("\n")[0], description=module.__doc__,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
        module.add_arguments(command)
        command.set_defaults(run=module.run, argv=argv)
    args = parser.parse_args(argv)
    if args.command not in parts:
        return args.run(args)
    options = shared.parse(parts[args.command], args, argv)
    names = ["ops", "train", "data", "memory"] if args.command == "all" else [args.command]
    return max(import_module(f"benchmarks.{name}").run(options) for name in names)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
