"""The tables of the Markdown pages, each from the JSON of a folder under results/."""

import re
from pathlib import Path

from benchmarks.harness import record, table
from benchmarks.harness.growth import growths, shown
from benchmarks.reports import digits, kernels, scaling
from benchmarks.reports.results import Side, ahead, facts_of, first_batch, is_ours, results, turns
from benchmarks.reports.shares import shares

LABELS = {
    ("official as shipped", "fp32"): "facebookresearch/mae as shipped, fp32",
    ("official as shipped", "fp16"): "facebookresearch/mae as shipped, fp16",
    ("official", "bf16"): "facebookresearch/mae, bf16",
    ("official compiled", "bf16"): "facebookresearch/mae, bf16, torch.compile",
    ("official SDPA compiled", "bf16"): "facebookresearch/mae, bf16, SDPA, torch.compile",
    ("official SDPA reduce-overhead", "bf16"): "facebookresearch/mae, bf16, SDPA, torch.compile, mode reduce-overhead",
    ("Hugging Face as shipped", "fp32"): "Hugging Face as shipped, fp32, SDPA",
    ("Hugging Face", "bf16"): "Hugging Face, bf16, SDPA",
    ("Hugging Face compiled", "bf16"): "Hugging Face, bf16, SDPA, torch.compile",
    ("Hugging Face reduce-overhead", "bf16"): "Hugging Face, bf16, SDPA, torch.compile, mode reduce-overhead",
    ("ours", "bf16"): "mae_fast, bf16",
    ("ours Inductor graphs", "bf16"): "mae_fast, bf16, torch.compile, Inductor's CUDA graphs",
    ("ours compiled", "bf16"): "**mae_fast, bf16, torch.compile**",
    ("ours CUDA graph", "bf16"): "**mae_fast, bf16, torch.compile, one CUDA graph**",
}

OURS = "**mae_fast, bf16, as by default**"


def label(side: Side) -> str:
    """Of a side that took turns, where ours without more is the step of `mae-fast pretrain`."""
    return OURS if side[0] == "ours" else LABELS.get(side, ", ".join(side))


def place(side: Side) -> tuple:
    """To sort sides by: ours last."""
    known = list(LABELS)
    return is_ours(side[0]), label(side) == OURS, known.index(side) if side in known else -1, side


def like(label: str, texts: list[str]) -> list[str]:
    """A line of a table: as bold as its label."""
    return [label, *(f"**{text}**" if "**" in label and text else text for text in texts)]


def train(folder: Path) -> str:
    """Images/s by side (down) and preset (across), and where they come from."""
    rows = list(first_batch(results(folder, "train")))
    if not rows:
        raise ValueError(f"{folder}: no train_*.json with measured rows; mae-fast bench train writes them")
    presets = {row["preset"]: row["batch"] for row in rows}
    found = {(row["preset"], row["side"], row["dtype"]): row for row in rows}
    lines = []
    for (side, dtype), label in LABELS.items():
        cells = [found.get((preset, side, dtype)) for preset in presets]
        if any(cells):
            lines.append(like(label, ["" if cell is None else f"{cell['images_per_s']:.1f}" for cell in cells]))
    products = [presets[name] / next(row["limit_s"] for row in rows if row["preset"] == name) for name in presets]
    lines.append(["the matrix products of our step alone, bf16", *(f"{rate:.1f}" for rate in products)])
    return f"{table.markdown(['images/s', *columns(presets.items())], lines)}\n\n{source(folder, 'train')}"


def columns(steps) -> list[str]:
    return [f"{preset.capitalize()}, batch {batch}" for preset, batch in steps]


def steps(folder: Path, show=lambda row: f"{row['images_per_s']:.0f}", unit: str = "images/s") -> str:
    """Sides (down) that took turns at each preset and batch (across), ours last, and how far ahead it is."""
    measured = turns(folder)
    if not measured:
        raise ValueError(f"{folder}: no turns*.json with ours beside a peer")
    sides = {side for column in measured.values() for side in column}
    lines = []
    for side in sorted(sides, key=place):
        cells = [column.get(side) for column in measured.values()]
        lines.append(like(label(side), ["" if cell is None else show(cell) for cell in cells]))
    lines.append(["mae_fast over the best of the others", *(f"{ahead(column):.2f} x" for column in measured.values())])
    return table.markdown([unit, *columns(measured)], lines)


def turns_with_source(folder: Path) -> str:
    return f"{steps(folder)}\n\n{source(folder, 'turns')}"


def turns_in_ms(folder: Path) -> str:
    """Beside each time that has them, the fastest and the slowest of the rounds."""

    def show(row: dict) -> str:
        rounds = [seconds * 1e3 for seconds in row.get("seconds", [])]
        spread = f" ({min(rounds):.1f} .. {max(rounds):.1f})" if rounds else ""
        return f"{row['median_s'] * 1e3:.1f}{spread}"

    return steps(folder, show, "ms a step")


def source(folder: Path, part: str) -> str:
    """Hardware, versions, dates and commits, in a sentence."""
    facts = facts_of(folder, part)
    one = facts[0]
    on_cpu = f"{one['cpu']} ({', '.join(one['instruction sets'])}), {one['threads']} threads"
    machine = f"{one['device']}, driver {one['driver']}" if "device" in one else on_cpu
    versions = one.get("packages", {}) | {"torch": one["torch"]}
    named = ["torch", "triton", "transformers", "timm"] if "device" in one else ["torch"]
    software = ", ".join(f"{name} {versions[name]}" for name in named if name in versions)
    days = sorted({day for fact in facts for day in re.findall(r"\d{4}-\d\d-\d\d", fact["date"])})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    commits = {fact["commit"][:7] + ("" if fact.get("clean", True) else " and changes"): None for fact in facts}
    return (
        f"{machine}; {software}; {when}, commit {', '.join(commits)}; medians; "
        f"[`benchmarks/results/{folder.name}/`](benchmarks/results/{folder.name})."
    )


def where_time_goes(folder: Path) -> str:
    stacks = kernels.bars(folder)
    launches = kernels.measured(folder)
    lines = [[name, *(f"{stack[name]:.1f}" for stack in stacks.values())] for name in kernels.PURPOSES]
    lines.append(["**all kernels**", *(f"**{sum(stack.values()):.1f}**" for stack in stacks.values())])
    counts = iter([f"{sum(count for _, count in step.values()):.0f}" for step in launches.values()])
    lines.append(["launches", *("" if "least" in stack else next(counts) for stack in stacks)])
    return table.markdown(["ms a step", *stacks], lines)


def ops(folder: Path) -> str:
    """Each op's time, its share of the limit, and the compiled reference's."""
    lines = []
    for name, sides in shares(folder).items():
        cells = []
        for side in ("ours", "reference compiled"):
            seconds, share = sides.get(side, (None, None))
            cells += ["", ""] if seconds is None else [f"{seconds * 1e6:.0f}", f"{share:.0%}"]
        ratio = f"{sides['reference compiled'][0] / sides['ours'][0]:.2f} x" if len(sides) == 2 else ""
        lines.append([name, *cells, ratio])
    header = ["op, pass", "ours, us", "of limit", "reference compiled, us", "of limit", "ours ahead by"]
    return table.markdown(header, lines)


def attention(folder: Path) -> str:
    """ms of ours, and how many times as long each other took, by shape."""
    rows = [row for row in results(folder, "attention") if row["dtype"] == "bf16" and row.get("median_s")]
    others = list(dict.fromkeys(row["side"] for row in rows if row["side"] not in ("fused", "products alone")))
    found = {(row["shape"], row["side"]): row for row in rows}
    lines = [
        [
            shape,
            f"{found[shape, 'fused']['median_s'] * 1e3:.3f}",
            *(f"{found[shape, side]['x_ours']:.2f} x" for side in others),
        ]
        for shape in dict.fromkeys(row["shape"] for row in rows)
    ]
    return table.markdown(["images x heads x tokens x width of a head", "fused, ms", *others], lines)


def data(folder: Path) -> str:
    rows = [row for row in results(folder, "data") if row.get("images_per_s")]
    return table.markdown(["loader", "images/s"], [[row["side"], f"{row['images_per_s']:.0f}"] for row in rows])


def endurance(folder: Path) -> str:
    """What a long run held, and whether it grew."""
    content = record.read(folder / "endurance.json")
    facts, rows = content["facts"], [shown(growth) for growth in growths(content["rows"])]
    lines = [[row[key] for key in ("what", "first", "last", "slope", "verdict")] for row in rows]
    made = table.markdown(["", "first third of the rest", "last third", "a step", ""], lines)
    return (
        f"{made}\n\n{facts['preset'].capitalize()}, {facts['steps']} steps of {facts['batch']} images, loader "
        f"{facts['loader']}, {facts['seconds'] / 60:.0f} minutes; {facts['cpu']}, one thread; torch "
        f"{facts['torch']}; {facts['date'][:10]}, commit {facts['commit'][:7]}"
    )


def faults(folder: Path) -> str:
    """Each fault, how often it was injected, and what was lost."""
    lines = []
    for row in results(folder, "faults"):
        same = "" if row["identical"] is None else f"{row['identical']} of {row['times']}"
        seconds = f"{row['median_s']:.1f}" if row.get("median_s") is not None else ""
        times = str(row["times"]) if row["times"] else f"not here: {row['note']}"
        lines.append([row["side"], times, row["outcome"], str(row["held"]), same, seconds])
    header = ["fault", "injected", "outcome", "as it says", "losses and weights identical", "seconds, median"]
    return table.markdown(header, lines)


TABLES = {
    "train": train,
    "turns": turns_with_source,
    "turns-rates": steps,
    "turns-ms": turns_in_ms,
    "kernels": where_time_goes,
    "ops": ops,
    "attention": attention,
    "data": data,
    "endurance": endurance,
    "scaling": scaling.overview,
    "scaling-strategies": scaling.strategies,
    "scaling-costs": scaling.step_costs,
    "scaling-assumptions": scaling.assumed,
    "faults": faults,
    "digits": digits.accuracies,
}
