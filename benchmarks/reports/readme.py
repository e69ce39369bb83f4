"""Write the tables of README.md and of the pages under results/ and docs/ anew, between their markers.

    mae-fast bench readme

A table stands between `<!-- bench:PART DIR -->` and `<!-- /bench -->`; DIR, a folder under benchmarks/results/, is
where its numbers come from, PART one of benchmarks.reports.tables. tests/benchmarks holds the pages to the JSON.
"""

import argparse
import re
from pathlib import Path

from benchmarks.harness import record
from benchmarks.harness.provenance import ROOT
from benchmarks.reports.tables import TABLES
from mae_fast.files.atomic import write_atomic

README = ROOT / "README.md"
BLOCK = re.compile(r"(?P<open><!-- bench:(?P<part>\S+) (?P<folder>\S+) -->\n).*?(?P<close><!-- /bench -->)", re.DOTALL)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass  # it takes none


def pages() -> list[Path]:
    """README, and what has tables of the pages under results/ and docs/."""
    others = sorted(record.RESULTS.glob("*/README.md")), sorted((ROOT / "docs").glob("*.md"))
    return [README, *(page for group in others for page in group if BLOCK.search(page.read_text()))]


def run(args: argparse.Namespace) -> int:
    for page in pages():
        text = fill(page.read_text())
        write_atomic(page, lambda file, text=text: file.write(text.encode()))
        print(f"Wrote {page}")
    return 0


def fill(text: str) -> str:
    """The same text with every table made anew. ValueError where it has none, or results are missing."""
    if not BLOCK.search(text):
        raise ValueError("no <!-- bench:PART DIR --> ... <!-- /bench --> in this page")
    return BLOCK.sub(lambda block: f"{block['open']}{_table(block['part'], block['folder'])}\n{block['close']}", text)


def _table(part: str, folder: str) -> str:
    if part not in TABLES:
        raise ValueError(f"bench:{part}: no such table; there are {', '.join(TABLES)}")
    return TABLES[part](record.RESULTS / folder)
