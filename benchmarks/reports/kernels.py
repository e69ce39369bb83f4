"""Where a step's time goes: its kernels by what they are for, beside the least that each could take.

The least with the residual stream in bfloat16 (benchmarks.counting.kernels), at the rates of limits.json.
"""

from pathlib import Path

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from benchmarks.counting.kernels import PURPOSES, least_seconds, purpose
from benchmarks.reports.results import Column, in_order, is_ours, limits, results
from mae_fast.config import SIZES

COLOURS = ["#1f4e8c", "#fdae6b", "#d95f0e", "#a1d99b", "#2c8c4a", "#9e7cc1", "#e7c630", "#7f7f7f", "#d6336c"]


def measured(folder: Path) -> dict[Column, dict[str, tuple[float, float]]]:
    """{(preset, batch): {purpose: (seconds, launches) a step of ours}}."""
    steps = {}
    for row in results(folder, "kernels"):
        if not is_ours(row["side"]):
            continue
        sums = steps.setdefault((row["preset"], row["batch"]), dict.fromkeys(PURPOSES, (0.0, 0.0)))
        for kernel, launches, seconds in row.get("kernels", []):
            before = sums[name := purpose(kernel)]
            sums[name] = before[0] + seconds, before[1] + launches
    return {key: steps[key] for key in sorted(steps, key=in_order)}


def bars(folder: Path) -> dict[str, dict[str, float]]:
    """{what a bar is: {purpose: ms}}: each step that was profiled, and under it the least, where limits are known."""
    gpu, stacks = limits(folder), {}
    for (preset, batch), sums in measured(folder).items():
        stacks[f"{preset.capitalize()}, batch {batch}"] = {name: seconds * 1e3 for name, (seconds, _) in sums.items()}
        if gpu:
            parts = least_seconds(SIZES[preset], batch, gpu)
            stacks[f"{preset.capitalize()}, least possible"] = {name: parts[name] * 1e3 for name in PURPOSES}
    return stacks


def draw(folder: Path, figure: Figure) -> bool:
    stacks = bars(folder)
    if not stacks:
        return False
    figure.set_size_inches(10, 4.8)
    axis = figure.subplots()
    least_possible = ["least" in bar for bar in stacks]
    heights = [i + 0.4 * sum(not below for below in least_possible[: i + 1]) for i in range(len(stacks))]
    left = [0.0] * len(stacks)
    for name, colour in zip(PURPOSES, COLOURS, strict=True):
        widths = [stack[name] for stack in stacks.values()]
        drawn = axis.barh(heights, widths, 0.9, left, label=name, color=colour, edgecolor="white", linewidth=0.5)
        texts = [f"{width:.1f}" if width > 1.1 else "" for width in widths]
        axis.bar_label(drawn, texts, label_type="center", fontsize="x-small", color=_on(colour))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for height, total in zip(heights, left, strict=True):
        axis.annotate(f"{total:.1f} ms", (total, height), xytext=(4, 0), textcoords="offset points", va="center",
                      fontsize="small", weight="bold")  # fmt: skip
    axis.set_yticks(heights, list(stacks))
    for text, below in zip(axis.get_yticklabels(), least_possible, strict=True):
        text.set(style="italic" if below else "normal", weight="normal" if below else "bold")
    axis.set(xlabel="ms of kernels a step", xlim=(0, 1.1 * max(left)))
    axis.invert_yaxis()
    axis.spines[["top", "right"]].set_visible(False)
    legend = axis.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=5, fontsize="small", frameon=False)
    return True


def _on(colour: str) -> str:
    """What can be read on a colour."""
    red, green, blue = to_rgb(colour)
    return "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.5 else "white"
