"""Rows as text: aligned for the screen, or as Markdown."""

from collections.abc import Callable

Columns = dict[str, Callable[[dict], str]]


def _cells(columns: Columns, row: dict) -> list[str]:
    def cell(show: Callable[[dict], str]) -> str:
        try:
            return show(row)
        except (KeyError, TypeError):  # a row that was not measured lacks numbers
            return ""

    return [cell(show) for show in columns.values()]


def screen(rows: list[dict], columns: Columns) -> str:
    """A table for the terminal; a row with a note shows it in place of its numbers."""
    lines = [list(columns)] + [_cells(columns, row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    notes = ["", *(f"  {row['note']}" if row.get("note") else "" for row in rows)]
    return "\n".join(text + note for text, note in zip(texts, notes, strict=True))


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A Markdown table, first column to the left, numbers to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines])


def ms(row: dict) -> str:
    """Median and quartiles in milliseconds."""
    return f"{row['median_s'] * 1e3:.4g} ({row['q1_s'] * 1e3:.4g} .. {row['q3_s'] * 1e3:.4g})"


def times(row: dict) -> str:
    return f"{row['x_ours']:.2f} ({row['x_ours_low']:.2f} .. {row['x_ours_high']:.2f})"


def share(row: dict) -> str:
    return f"{row['of_limit']:.0%}"


STEP = {  # of a training step beside others
    "side": lambda row: row["side"],
    "dtype": lambda row: row["dtype"],
    "images/s": lambda row: f"{row['images_per_s']:.4g}",
    "ms a step": ms,
    "ours x": times,
    "of limit": share,
}
