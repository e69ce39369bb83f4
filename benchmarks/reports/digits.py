"""The table of `mae-fast bench digits`: accuracies of an encoder before and after pretraining, over seeds."""

from pathlib import Path

import numpy as np

from benchmarks.harness import record, table


def accuracies(folder: Path) -> str:
    """For a page: a line a classifier, and where the numbers come from."""
    content = record.read(folder / "digits.json")
    facts = content["facts"]
    lines = [[text(row) for text in COLUMNS.values()] for row in summary(content["rows"])]
    trained = f"{facts['weights']:,} weights, {facts['epochs']} epochs; linprobe and finetune: {facts['tune_epochs']}"
    where = f"{facts['cpu']}; torch {facts['torch']}; {facts['date'][:10]}, commit {facts['commit'][:7]}"
    made = table.markdown(list(COLUMNS), lines)
    return f"{made}\n\n{trained}; mean and deviation over {facts['seeds']} seeds; {where}"


def summary(rows: list[dict]) -> list[dict]:
    """A row a classifier: mean and deviation over seeds of both encoders, and whether pretraining clearly wins."""
    found = []
    for name in dict.fromkeys(row["op"] for row in rows):
        before, after = (
            np.array([row["top1"] for row in rows if (row["op"], row["side"]) == (name, side)])
            for side in ("random weights", "pretrained")
        )
        wins = bool((after - before).min() > max(before.std(), after.std()))
        found.append({"op": name, "before": before, "after": after, "wins": wins})
    return found


def show(numbers: np.ndarray) -> str:
    return f"{numbers.mean():.1f} ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 else f"{numbers[0]:.1f}"


COLUMNS = {
    "top-1 in percent": lambda row: row["op"],
    "random weights": lambda row: show(row["before"]),
    "pretrained": lambda row: show(row["after"]),
    "": lambda row: "" if row["wins"] else "no clear win",
}
