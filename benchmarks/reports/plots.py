"""Draw what is under results/<hardware>/ as SVG, from its JSON alone.

    mae-fast bench plots [DIR]

throughput.svg: images/s by preset and side. kernels.svg: where a step's time goes, beside the least possible.
limits.svg: each op's share of its limit. roofline.svg: the training steps under the roof of this machine.
waterfall.svg: from the plain reference to the fast step, a change a bar. scaling.svg: images/s over batch size and over
ranks. A picture whose files are not there is not drawn.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import record
from benchmarks.reports import kernels, shares, tables
from benchmarks.reports.results import ahead, first_batch, hardware_of, is_ours, results, turns
from mae_fast.config import SIZES
from mae_fast.files.atomic import write_atomic

COLOURS = {"official": "tab:orange", "Hugging Face": "tab:green", "ours": "tab:blue"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    default = record.RESULTS / record.hardware(device)
    parser.add_argument("folder", nargs="?", type=Path, default=default, metavar="DIR", help=f"default: {default.name}")


def run(args: argparse.Namespace) -> int:
    files = draw_all(args.folder)
    for file in files:
        print(f"Wrote {file}")
    if not files:
        raise ValueError(f"{args.folder}: no results to draw; mae-fast bench all writes them")
    return 0


def draw_all(folder: Path) -> list[Path]:
    """The pictures for which there are results."""
    written = []
    for name, draw in PICTURES.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        if draw(folder, figure):
            file = folder / f"{name}.svg"
            figure.suptitle(hardware_of(folder), fontsize="small")
            with rc_context({"svg.hashsalt": name}):  # with no date: the same results give the same file
                write_atomic(file, partial(figure.savefig, format="svg", metadata={"Date": None}))
            written.append(file)
    return written


def throughput(folder: Path, figure: Figure) -> bool:
    """Of steps timed in turn, each side a process, where there are any; else of those timed in one process."""
    return _turns(folder, figure) or _train(folder, figure)


def _turns(folder: Path, figure: Figure) -> bool:
    columns = turns(folder)
    sides = sorted({side for column in columns.values() for side in column}, key=tables.place)
    if not columns:
        return False
    figure.set_size_inches(10, 1.4 + 0.36 * len(sides))
    labels = [tables.label(side).replace("**", "").replace(", ", "\n", 1) for side in sides]
    axes = figure.subplots(1, len(columns), squeeze=False, sharey=True)[0]
    for axis, ((preset, batch), column) in zip(axes, columns.items(), strict=True):
        for label, side in zip(labels, sides, strict=True):
            rate = column[side]["images_per_s"] if side in column else 0
            bar = axis.barh(label, rate, color=_colour(side[0]))
            axis.bar_label(bar, [f"{rate:.0f}" if rate else ""], padding=2, fontsize="x-small",
                           weight="bold" if is_ours(side[0]) else "normal")  # fmt: skip
        title = f"{preset.capitalize()}, batch {batch}\nours {ahead(column):.2f} x the best other"
        axis.set_title(title, fontsize="small")
        axis.margins(x=0.25)
        axis.tick_params(labelsize="x-small")
        axis.spines[["top", "right"]].set_visible(False)
    axis.invert_yaxis()
    figure.supxlabel("images/s, medians; no bar: not measured", fontsize="small")
    return True


def _train(folder: Path, figure: Figure) -> bool:
    rows = list(first_batch(results(folder, "train")))
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    if not rows:
        return False
    axes = figure.subplots(1, len(presets), squeeze=False, sharey=True)[0]
    for axis, preset in zip(axes, presets, strict=True):
        sides = [row for row in rows if row["preset"] == preset and "alone" not in row["side"]]
        for row in sides:  # sides of one name share a line over all presets
            name, rate = f"{row['side']}, {row['dtype']}", row["images_per_s"]
            whisker = [[rate - row["batch"] / row["q3_s"]], [row["batch"] / row["q1_s"] - rate]]
            axis.barh(name, rate, xerr=whisker, color=_colour(name))
        axis.axvline(sides[0]["batch"] / sides[0]["limit_s"], color="tab:gray", linestyle="--")
        axis.set_title(f"{preset}, batch {sides[0]['batch']}", fontsize="small")
    axes[0].invert_yaxis()
    figure.supxlabel("images/s, medians and quartiles; dashed: the step's matrix products alone", fontsize="small")
    return True


def _colour(side: str) -> str:
    return next((colour for name, colour in COLOURS.items() if side.startswith(name)), "tab:gray")


def roofline(folder: Path, figure: Figure) -> bool:
    """Model FLOP/s of each side over the FLOPs of our step for each byte that it must move."""
    rows = [
        row for row in first_batch(results(folder, "train") or results(folder, "turns")) if "alone" not in row["side"]
    ]
    file = folder / "limits.json"
    measured = record.read(file)["rows"] if file.is_file() else []
    bandwidth = max((row["rate"] * 1e9 for row in measured if row["side"] == "copy"), default=0)
    peak = max((row["rate"] * 1e12 for row in measured if row["side"].startswith("linear")), default=0)
    if not rows or not bandwidth or not peak:
        return False
    from benchmarks.counting.roofline import work  # builds models to count their parameters

    axis = figure.subplots()
    reach = []
    for i, (preset, batch) in enumerate({row["preset"]: row["batch"] for row in rows}.items()):
        step = work(SIZES[preset], batch)
        parts = step.products + step.attention
        intensity = sum(flops for flops, _ in parts) / (sum(size for _, size in parts) + step.rest)
        reach.append(intensity)
        mine = [row for row in rows if row["preset"] == preset]
        rates = [row["tflops"] * 1e12 for row in mine]
        axis.scatter([intensity] * len(mine), rates, color=[_colour(row["side"]) for row in mine], s=20)
        axis.annotate(preset, (intensity, max(rates)), textcoords="offset points", xytext=(4, 4 + 10 * i),
                      fontsize="small")  # fmt: skip
    points = sorted({peak / bandwidth / 30, peak / bandwidth, max(peak / bandwidth, *reach) * 3})
    axis.plot(points, [min(peak, bandwidth * x) for x in points], color="tab:gray")
    for name, colour in COLOURS.items():
        axis.scatter([], [], color=colour, s=20, label=name)
    axis.set(xscale="log", yscale="log", xlabel="FLOP a byte of the step", ylabel="FLOP/s")
    axis.set_title("roof: measured copy bandwidth and rate of the step's linear products", fontsize="small")
    axis.legend(fontsize="small")
    return True


def scaling(folder: Path, figure: Figure) -> bool:
    rows = [row for row in results(folder, "scaling") if row.get("seconds")]
    if not rows:
        return False
    over_batch, over_ranks = figure.subplots(1, 2)
    for preset in dict.fromkeys(row["preset"] for row in rows):
        mine = [row for row in rows if row["preset"] == preset]
        largest = max(row["batch"] for row in mine)
        _line(over_batch, preset, [row for row in mine if row["ranks"] == 1], "batch")
        _line(over_ranks, preset, [row for row in mine if row["batch"] == largest], "ranks")
    over_batch.set(xlabel="batch", ylabel="images/s", ylim=(0, None))
    over_ranks.set(xlabel="ranks", ylim=(0, None))
    over_ranks.xaxis.get_major_locator().set_params(integer=True)
    over_batch.legend()
    return True


def waterfall(folder: Path, figure: Figure) -> bool:
    rows = list(first_batch(results(folder, "waterfall")))
    presets = list(dict.fromkeys(row["preset"] for row in rows))
    if not rows:
        return False
    axes = figure.subplots(1, len(presets), squeeze=False, sharey=True)[0]
    for axis, preset in zip(axes, presets, strict=True):
        mine = [row for row in rows if row["preset"] == preset]
        bars = axis.barh([row["side"] for row in mine], [row["images_per_s"] for row in mine], color="tab:blue")
        axis.bar_label(bars, [f"x {row['x_first']:.2f}" for row in mine], padding=2, fontsize="small")
        axis.margins(x=0.2)
        axis.set_title(f"{preset}, batch {mine[0]['batch']}", fontsize="small")
    axes[0].invert_yaxis()
    figure.supxlabel("images/s, each bar with the changes of those above it", fontsize="small")
    return True


def _line(axis: Axes, name: str, rows: list[dict], x: str) -> None:
    axis.plot([row[x] for row in rows], [row["images_per_s"] for row in rows], marker="o", label=name)


PICTURES: dict[str, Callable[[Path, Figure], bool]] = {
    "throughput": throughput,
    "kernels": kernels.draw,
    "limits": shares.draw,
    "roofline": roofline,
    "waterfall": waterfall,
    "scaling": scaling,
}
