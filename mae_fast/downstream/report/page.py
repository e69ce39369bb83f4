"""The page itself: HTML from the facts of a run. No script, no link out: what it shows is in it."""

import time
from html import escape
from pathlib import Path

from mae_fast.downstream.report.charts import Line, line_chart
from mae_fast.downstream.report.facts import Facts, is_number, read_facts
from mae_fast.downstream.report.images import picture, strips
from mae_fast.downstream.report.style import STYLE
from mae_fast.files.atomic import write_atomic

ROWS = 20  # epochs in the table of numbers, at most
NAMED = 30  # faults that are listed, at most
# A page made of files from a stranger runs nothing and asks nobody for anything.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Write the page of a run. run: its output_dir, also of a run that is still at work or not ours; out: the file,
    default report.html in that folder. -> out.

    Raises FileNotFoundError where the folder holds no run.
    """
    facts = read_facts(Path(run))
    out = Path(run) / "report.html" if out is None else Path(out)
    write_atomic(out, lambda file: file.write(page(facts).encode()))
    return out


def page(facts: Facts) -> str:
    name = facts.start.get("model") or facts.folder.resolve().name
    sections = [
        ("Curves", curves(facts)),
        ("Reconstructions", strips(facts)),
        ("Pictures", "".join(picture(path) for path in sorted(facts.folder.glob("*confusion*.png")))),
        ("Numbers", numbers(facts)),
        ("Faults met", faults(facts)),
        ("Configuration", configuration(facts)),
        ("Versions", table(("what", "version"), facts.start.get("versions", {}).items())),
    ]
    body = "".join(f"<section><h2>{title}</h2>{content}</section>" for title, content in sections if content)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f"<title>{escape(name)}: run report</title><style>{STYLE}</style></head><body>"
        f"<header><h1>{escape(name)}</h1>{summary(facts)}</header><main>{body}</main>"
        f"<footer>Written by mae-fast report on {moment(time.time())} from {escape(str(facts.folder))}.</footer>"
        "</body></html>\n"
    )


def summary(facts: Facts) -> str:
    start, settings = facts.start, facts.start.get("settings", {})
    done, planned = len(facts.epochs), settings.get("epochs")
    items = {"state": facts.state, "epochs": f"{done} of {planned}" if planned else str(done)}
    if losses := facts.column("train_loss"):
        items["training loss"] = f"{losses[0][1]:.4f} → {losses[-1][1]:.4f}"
    for key in facts.accuracies[:3]:
        items[key] = f"{facts.column(key)[-1][1]:.4g}"
    if facts.timed:
        items |= {"training time": duration(facts.seconds), "throughput": f"{speed(facts.rate)} images/s"}
    if "parameters" in start:
        items["parameters"] = f"{start['parameters'] / 1e6:.1f} M"
    if "images" in start:
        items["images/epoch"] = f"{start['images']:,}"
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in items.items())
    where = [start.get("device"), start.get("step"), settings.get("data_path")]
    line = " · ".join(escape(str(word)) for word in where if word)
    return f'<p class="soft">{line}</p><dl class="facts">{cells}</dl>'


def curves(facts: Facts) -> str:
    charts, x = [], "epoch"
    losses = [Line(key, facts.column(key)) for key in ("train_loss", *facts.losses)]
    if any(line.points for line in losses):
        charts.append(line_chart("Loss", losses, x, "mean of an epoch"))
    if rates := facts.column("train_lr"):
        charts.append(line_chart("Learning rate", [Line("train_lr", rates)], x, "mean of an epoch", "{:.1e}".format))
    if facts.accuracies:
        lines = [Line(key, facts.column(key)) for key in facts.accuracies]
        charts.append(line_chart("Accuracy", lines, x, "of held-out pictures"))
    if facts.timed:
        charts.append(throughput(facts))
    others = [key for key in facts.keys if key not in (*facts.losses, *facts.accuracies)]
    charts += [line_chart(key, [Line(key, facts.column(key))], x, "by epoch") for key in others]
    return f'<div class="charts">{"".join(charts)}</div>' if charts else ""


def throughput(facts: Facts) -> str:
    """By the time spent in epochs, so that the hours between two processes leave no hole."""
    units = {"hours": 3600, "minutes": 60}
    unit, size = next(((unit, size) for unit, size in units.items() if facts.seconds > 2 * size), ("seconds", 1))
    spent, points = 0.0, []
    for entry in facts.timed:
        spent += entry["seconds"]
        points.append((spent / size, entry["images"] / entry["seconds"]))
    line = Line("images a second", points)
    return line_chart("Throughput", [line], f"{unit} of training", "images/s, an epoch a point")


def numbers(facts: Facts) -> str:
    """The epochs as a table, evenly thinned."""
    keys = [key for key in ("train_loss", "train_lr", *facts.keys) if facts.column(key)]
    count = len(facts.epochs)
    chosen = sorted({round(i * (count - 1) / (ROWS - 1)) for i in range(ROWS)}) if count > ROWS else range(count)
    rates = {entry.get("epoch"): speed(entry["images"] / entry["seconds"]) for entry in facts.timed}
    head, rows = ["epoch", *keys, *(["images/s"] if rates else [])], []
    for entry in (facts.epochs[i] for i in chosen):
        values = [f"{entry[key]:.5g}" if is_number(entry.get(key)) else "" for key in keys]
        rows.append([str(entry["epoch"] + 1), *values, *([rates.get(entry["epoch"], "")] if rates else [])])
    return table(head, rows, "number")


def faults(facts: Facts) -> str:
    if not facts.events:
        return "<p>This folder has no run.jsonl, so restarts, skipped images and versions are not known.</p>"
    counts = {"steps skipped, without a finite loss": facts.skipped_steps, "bad images skipped": facts.bad_images}
    told = "".join(f"<p>{what}: {count}</p>" for what, count in counts.items() if count)
    if not facts.faults:
        return told or "<p>None.</p>"
    rows = [(moment(when), text) for when, text in facts.faults[-NAMED:]]
    more = len(facts.faults) - len(rows)
    told += f"<p>The last {NAMED} of {len(facts.faults)}:</p>" if more else ""
    return told + table(("when", "what"), rows)


def configuration(facts: Facts) -> str:
    settings, changed = facts.start.get("settings", {}), facts.start.get("changed")
    if changed is None:  # an older journal, or not ours
        return table(("setting", "value"), settings.items())
    given = [(name, value) for name, value in settings.items() if name in changed]
    rest = [(name, value) for name, value in settings.items() if name not in changed]
    columns = table(("set for this run", "value"), given), table(("by default", "value"), rest)
    return f'<div class="columns">{"".join(f"<div>{column}</div>" for column in columns if column)}</div>'


def table(head, rows, kind: str = "") -> str:
    rows = list(rows)
    if not rows:
        return ""
    mark = f' class="{kind}"' if kind else ""
    heads = "".join(f"<th scope=col{mark}>{escape(str(cell))}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td{mark}>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def speed(images: float) -> str:
    return f"{images:,.0f}" if images >= 100 else f"{images:.1f}"


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))


def duration(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(minutes)} min {int(seconds % 60)} s" if minutes >= 1 else f"{seconds:.1f} s"
