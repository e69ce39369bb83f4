"""`mae-fast report`: a run as one HTML page."""

import argparse

from mae_fast.downstream.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", metavar="RUN_DIR", help="the output_dir of a run, also of one that is still at work")
    parser.add_argument("--out", metavar="FILE.html", help="the page to write; default report.html in RUN_DIR")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    print(f"Wrote {write_report(args.run_dir, args.out)}")
