"""Two results of the same part side by side: is anything slower, past the noise of both?

    mae-fast bench compare A.json B.json

A row's ratio is B's median over A's, seconds or bytes. Its noise is what the rounds of both leave open: from B's lower
bound over A's upper one to B's upper over A's lower, each the 95 % interval of a median (benchmarks.harness.timing). A
row is a regression where even the lower end is above 1 + --allow: between two runs a machine changes by more than it
shows within one. Also one that A has measured and B has not. Exit code 1 where there is any.

Sides were timed in turn with ours in both files: whether their ratios to ours agree within the noise printed with them
is told besides. It should hold of two runs of the same code on the same machine, whenever they were made.
"""

import argparse
from pathlib import Path
from statistics import median

from benchmarks.harness import record, table
from benchmarks.harness.timing import interval

ALLOW = 0.05
SAME = ["device", "cpu", "threads", "torch"]  # facts that ratios of seconds rest on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A.json", help="before")
    parser.add_argument("b", type=Path, metavar="B.json", help="after")
    parser.add_argument("--allow", type=float, default=ALLOW, help=f"share that a row may be slower (default: {ALLOW})")


def compare(before: list[dict], after: list[dict], allow: float = ALLOW) -> list[dict]:
    """A row for each that `before` has measured: ratio, low, high and verdict.

    ValueError where the two have no row in common.
    """
    theirs = {record.identity(row): row for row in after}
    measured = [row for row in before if _values(row)]
    if not any(record.identity(row) in theirs for row in measured):
        raise ValueError("compare: the two files have no measured row in common")
    rows = []
    for row in measured:
        result = {"name": ", ".join(str(value) for _, value in record.identity(row))}
        new = theirs.get(record.identity(row), {"note": "not in B"})
        if not _values(new):
            rows.append(result | {"verdict": "REGRESSION", "note": new.get("note", "")})
            continue
        old_low, old_high = interval(_values(row))
        new_low, new_high = interval(_values(new))
        ratio, low, high = median(_values(new)) / median(_values(row)), new_low / old_high, new_high / old_low
        result["agree"] = _agree(row, new)
        verdict = "REGRESSION" if low > 1 + allow else "faster" if high < 1 - allow else "same"
        rows.append(result | {"ratio": ratio, "low": low, "high": high, "verdict": verdict})
    return rows


def _agree(a: dict, b: dict) -> bool | None:
    """Whether the intervals of the ratios to ours overlap; None where there is none, as of ours itself."""
    if "x_ours" in a and "x_ours" in b and a["x_ours_low"] < a["x_ours_high"]:
        return a["x_ours_low"] <= b["x_ours_high"] and b["x_ours_low"] <= a["x_ours_high"]
    return None


def _values(row: dict) -> list[float]:
    return row.get("seconds") or ([row["bytes"]] if row.get("bytes") else [])


COLUMNS = {
    "row": lambda row: row["name"],
    "B / A": lambda row: f"{row['ratio']:.3f} ({row['low']:.3f} .. {row['high']:.3f})",
    "": lambda row: row["verdict"],
    "ratio to ours": lambda row: {True: "agrees", False: "DIFFERS", None: ""}[row["agree"]],
}


def run(args: argparse.Namespace) -> int:
    a, b = record.read(args.a), record.read(args.b)
    for key in SAME:
        if a["facts"].get(key) != b["facts"].get(key):
            print(f"not the same {key}: {a['facts'].get(key)} and {b['facts'].get(key)}")
    rows = compare(a["rows"], b["rows"], args.allow)
    print(table.screen(rows, COLUMNS))
    slower = [row for row in rows if row["verdict"] == "REGRESSION"]
    print(f"{len(rows)} rows, {len(slower)} slower by more than {args.allow:.0%} past the noise")
    ratios = [row["agree"] for row in rows if row.get("agree") is not None]
    if ratios:
        print(f"{len(ratios)} ratios to ours, {sum(ratios)} agree within their noise")
    return 1 if slower else 0
