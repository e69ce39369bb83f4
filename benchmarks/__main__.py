"""mae-fast bench: how fast, beside whom, and how far from what the machine can do.

    mae-fast bench PART [--presets ...] [--dtypes ...] [--batch ...]     a part below, or all
    mae-fast bench gpu-report --minutes 9 [--official DIR]     everything, for a machine that is lent for ten minutes
    mae-fast bench compare A.json B.json                       exit code 1 on a regression
    mae-fast bench plots [DIR], mae-fast bench readme          draw and tabulate what is under results/
    mae-fast bench --model-only                                the roofline: no measurement, no GPU
    mae-fast bench --model-only --gpus 8,64                    many GPUs, predicted: images/s, limit, cost

parts/: what is measured, a file each. peers/: beside whom. counting/: against what, counted from shapes (products and
FLOPs, least bytes, datasheets, memory). harness/: how (options, turns and clocks, provenance, JSON and CSV).
reports/: what is made of the results. aot.py: what the Triton kernels compile to, with no GPU. Nothing is timed before
it has passed the parity rule (mae_fast.parity).
"""

import argparse
import sys
from importlib import import_module

from benchmarks.harness import options as shared

PARTS = {
    "ops": "each fused op, beside its reference compiled, against a copy and its products",
    "train": "a training step beside the peers, against its own matrix products",
    "turns": "training steps, each side a process, all compiling at once, then in turn",
    "data": "loaders, against decoding alone",
    "pretrain": "a whole run from files, against the same from a batch that is ready",
    "memory": "peak memory of a step beside the peers, against what training must hold",
    "scaling": "our step at several batch sizes and on several processes",
    "ranks": "one process a core, alone and several that train together, each with the same work",
    "endurance": "a long run of a tiny model: whether memory, files or threads grow",
    "waterfall": "from the plain reference to the fast step, one change a bar",
    "attention": "attention alone, beside SDPA in all its kinds and xformers",
    "blocks": "block sizes of the Triton kernels, swept on this GPU",
    "golden": "the model on this device beside numbers of the official code",
    "digits": "what pretraining is worth on scikit-learn's digits, over seeds",
    "faults": "faults injected into tiny runs: what is said, and what is lost",
    "limits": "copy bandwidth, matrix rate at the model's shapes, JPEG decoding",
}


ALL = ["ops", "train", "data", "memory"]
REPORTS = ("gpu_report", "compare", "plots", "readme")


def main(argv: list[str]) -> int:
    if argv[:1] == ["--model-only"]:
        many = any(word.split("=")[0] == "--gpus" for word in argv)
        return import_module("benchmarks.reports.scaling" if many else "benchmarks.counting.roofline").main(argv[1:])
    parser = argparse.ArgumentParser(
        prog="mae-fast bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="PART")
    parts = {name: [name] for name in PARTS} | {"all": ALL}
    for name, members in parts.items():
        part = commands.add_parser(name, help=PARTS.get(name, ", ".join(ALL)), conflict_handler="resolve")
        shared.add_arguments(part, members)
    for name in REPORTS:
        module = import_module(f"benchmarks.reports.{name}")
        report = commands.add_parser(
            name.replace("_", "-"), help=module.__doc__.split("\n")[0], description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        module.add_arguments(report)
        report.set_defaults(run=module.run, argv=argv)
    args = parser.parse_args(argv)
    try:
        if args.command not in parts:
            return args.run(args)
        options = shared.parse(commands.choices[args.command], args, argv)
        return max(import_module(f"benchmarks.parts.{name}").run(options) for name in parts[args.command])
    except (ValueError, OSError, ImportError) as error:
        print(f"mae-fast bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
