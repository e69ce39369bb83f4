"""Write the tables of README.md anew, between their markers, from the results they come from.

    mae-fast bench readme

A table stands between `<!-- bench:train DIR -->` and `<!-- /bench -->`; DIR, a folder under benchmarks/results/, is
where its numbers come from. tests/test_bench.py holds README to the JSON.
"""

import argparse
import re
from pathlib import Path

from benchmarks.harness import record, table
from benchmarks.harness.provenance import ROOT
from benchmarks.reports import plots
from mae_fast.files.atomic import write_atomic

README = ROOT / "README.md"
BLOCK = re.compile(r"(?P<open><!-- bench:train (?P<folder>\S+) -->\n).*?(?P<close>\n<!-- /bench -->)", re.DOTALL)

ROWS = {
    ("official as shipped", "fp32"): "facebookresearch/mae as shipped, fp32",
    ("official as shipped", "fp16"): "facebookresearch/mae as shipped, fp16",
    ("official", "bf16"): "facebookresearch/mae, bf16",
    ("official compiled", "bf16"): "facebookresearch/mae, bf16, torch.compile",
    ("official SDPA compiled", "bf16"): "facebookresearch/mae, bf16, SDPA, torch.compile",
    ("Hugging Face as shipped", "fp32"): "Hugging Face as shipped, fp32, SDPA",
    ("Hugging Face", "bf16"): "Hugging Face, bf16, SDPA",
    ("Hugging Face compiled", "bf16"): "Hugging Face, bf16, SDPA, torch.compile",
    ("ours", "bf16"): "mae_fast, bf16",
    ("ours compiled", "bf16"): "**mae_fast, bf16, torch.compile**",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass  # it takes none


def run(args: argparse.Namespace) -> int:
    text = fill(README.read_text())
    write_atomic(README, lambda file: file.write(text.encode()))
    print(f"Wrote {README}")
    return 0


def fill(text: str) -> str:
    """The same text with every table made anew. ValueError where it has none, or results are missing."""
    if not BLOCK.search(text):
        raise ValueError("README.md: no <!-- bench:train DIR --> ... <!-- /bench --> in it")
    return BLOCK.sub(lambda block: block["open"] + train_table(record.RESULTS / block["folder"]) + block["close"], text)


def train_table(folder: Path) -> str:
    """Images/s by side (down) and preset (across), and where they come from."""
    rows = list(plots.first_batch(plots.results(folder, "train")))
    if not rows:
        raise ValueError(f"{folder}: no train_*.json with measured rows; mae-fast bench train writes them")
    presets = {row["preset"]: row["batch"] for row in rows}
    found = {(row["preset"], row["side"], row["dtype"]): row for row in rows}
    lines = []
    for (side, dtype), label in ROWS.items():
        cells = [found.get((preset, side, dtype)) for preset in presets]
        if any(cells):
            texts = ["" if cell is None else f"{cell['images_per_s']:.1f}" for cell in cells]
            lines.append([label, *(f"**{text}**" if "**" in label and text else text for text in texts)])
    products = [presets[name] / next(row["limit_s"] for row in rows if row["preset"] == name) for name in presets]
    lines.append(["the matrix products of our step alone, bf16", *(f"{rate:.1f}" for rate in products)])
    header = ["images/s", *(f"{name.capitalize()}, batch {batch}" for name, batch in presets.items())]
    return f"{table.markdown(header, lines)}\n\n{source(folder)}"


def source(folder: Path) -> str:
    """Hardware, versions and commits, in a sentence."""
    facts = [record.read(file)["facts"] for file in sorted(folder.glob("train_*.json"))]
    one = facts[0]
    machine = one.get("device") or f"{one['cpu']} ({', '.join(one['instruction sets'])}), {one['threads']} threads"
    commits = ", ".join(dict.fromkeys(fact["commit"][:7] + ("" if fact["clean"] else " and changes") for fact in facts))
    return (
        f"{machine}; torch {one['torch']}; {one['date'][:10]}, commit {commits}; medians; "
        f"[`benchmarks/results/{folder.name}/`](benchmarks/results/{folder.name})."
    )
