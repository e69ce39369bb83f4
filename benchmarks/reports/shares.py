"""Each op's share of its limit, ours and the compiled reference's; as a table's numbers and as a picture."""

from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.harness import record
from benchmarks.reports.results import first_batch, results

COLOURS = {"ours": "tab:blue", "reference compiled": "tab:gray"}


def shares(folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """{"op, pass": {side: (seconds, share of the limit)}} of the first preset and dtype.

    Where ours had no kernel (`runs`) it is the reference, and left out. A limit that some side is below is none, such
    as the time of PyTorch's batched products for attention on few tokens: then what is left is the least traffic at a
    copy's speed.
    """
    rows = [row for row in first_batch(results(folder, "ops")) if row.get("of_limit")]
    rows = [row for row in rows if row["preset"] == rows[0]["preset"] and row["dtype"] == rows[0]["dtype"]]
    found = {}
    for row in rows:
        mine = [other for other in rows if (other["op"], other["pass"]) == (row["op"], row["pass"])]
        beaten = any(other["of_limit"] > 1 for other in mine)
        limit = row["least_MB"] * 1e6 / _copy(folder, row["preset"]) if beaten else row["limit_s"]
        if row["side"] in COLOURS and row.get("runs") != "reference":
            sides = found.setdefault(f"{row['op']}, {row['pass']}", {})
            sides[row["side"]] = row["median_s"], limit / row["median_s"]
    return found


def _copy(folder: Path, preset: str) -> float:
    """Bytes a second of a copy, in the run of the ops themselves."""
    return record.read(folder / f"ops_{preset}.json")["facts"]["copy GB/s"] * 1e9


def draw(folder: Path, figure: Figure) -> bool:
    found = shares(folder)
    if not found:
        return False
    figure.set_size_inches(8, 1 + 0.36 * len(found))
    axis = figure.subplots()
    names = list(found)
    for i, (side, colour) in enumerate(COLOURS.items()):
        mine = {name: found[name][side][1] for name in names if side in found[name]}
        heights = [names.index(name) + (i - 0.5) * 0.4 for name in mine]
        drawn = axis.barh(heights, list(mine.values()), 0.4, label=side, color=colour)
        axis.bar_label(drawn, [f"{share:.0%}" for share in mine.values()], padding=2, fontsize="x-small",
                       bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    axis.axvline(1, color="black", linestyle="--", linewidth=1)
    axis.set(yticks=range(len(names)), yticklabels=names, xlim=(0, 1.12), xlabel="share of the limit (dashed)")
    axis.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axis.tick_params("y", labelsize="small")
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.spines[["top", "right"]].set_visible(False)
    row = next(first_batch(results(folder, "ops")))
    title = f"{row['preset'].capitalize()}, batch {row['batch']}, {row['dtype']}"
    if any("ours" not in sides for sides in found.values()):
        title += "; no blue bar: ours had no kernel for it"
    axis.set_title(title, fontsize="small")
    legend = axis.get_legend_handles_labels()
    figure.legend(*legend, loc="outside lower center", ncols=2, fontsize="small", frameon=False)
    return True
