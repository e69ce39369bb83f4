"""What a part leaves: a JSON and a CSV file of its rows, with where they came from; written again after every addition,
so that a run which is stopped leaves what it had.

A row is flat. What names it: the keys of IDENTITY that it has. What was measured: `seconds` (of each round) and
what follows from them, or `bytes`, or a `note` that says why it was not measured.
"""

import csv
import io
import json
import os
import re
from pathlib import Path

import torch

from benchmarks.harness.provenance import ROOT, cpu
from mae_fast.files.atomic import write_atomic

IDENTITY = ["part", "preset", "dtype", "batch", "ranks", "op", "pass", "shape", "side"]
RESULTS = ROOT / "benchmarks" / "results"


def hardware(device: str) -> str:
    """The name of this hardware's folder under results/."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"cpu-{cpu()[0]}-{os.cpu_count()}-cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Record:
    def __init__(self, file: Path, facts: dict):
        self.file, self.facts, self.rows = file, facts, []

    def add(self, rows: list[dict]) -> None:
        self.rows += rows
        content = json.dumps({"facts": self.facts, "rows": self.rows}, indent=1) + "\n"
        write_atomic(self.file, lambda file: file.write(content.encode()))
        write_atomic(self.file.with_suffix(".csv"), lambda file: file.write(to_csv(self.rows).encode()))

    def put(self, rows: list[dict]) -> None:
        """Add rows in place of those with the same identity, such as those of an earlier round."""
        new = {identity(row) for row in rows}
        self.rows = [row for row in self.rows if identity(row) not in new]
        self.add(rows)


def read(file: Path) -> dict:
    """-> {"facts": ..., "rows": [...]}. ValueError names a file that is no record."""
    try:
        content = json.loads(Path(file).read_text())
        if not isinstance(content["facts"], dict) or not isinstance(content["rows"], list):
            raise TypeError
    except (json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(f"{file}: not a result of mae-fast bench (JSON with facts and rows)") from None
    return content


def identity(row: dict) -> tuple:
    return tuple((key, row[key]) for key in IDENTITY if row.get(key) is not None)


def to_csv(rows: list[dict]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "seconds"))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def reason(error: Exception) -> str:
    """The type of an error and the first line of its message, for a note."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
