"""Line charts as SVG inside of a page: nothing to load, sharp on paper, large enough type on a phone."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 440, 250  # about a phone's width, so that type of 12 units stays readable there
LEFT, RIGHT, TOP, BOTTOM = 54, 12, 12, 40
COLOURS = ("#0b5fa5", "#c2410c", "#15803d", "#7e22ce", "#525252")  # each at least 4.5 : 1 on white
DASHES = ("", "6 3", "2 2", "8 3 2 3", "4 4")  # told apart without colour
MOST = 400  # points of a line


@dataclass(frozen=True)
class Line:
    """points: (x, y), ascending in x, all finite."""

    name: str
    points: list[tuple[float, float]]


def line_chart(title: str, lines: list[Line], x_name: str, y_name: str, form: Callable = "{:.4g}".format) -> str:
    """A figure with title, axes and, for several lines, a legend. form: a value of y -> its text."""
    lines = [Line(line.name, thinned(line.points)) for line in lines if line.points]
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
    x_at = scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_at = scale(min(*ys, y_ticks[0]), max(*ys, y_ticks[-1]), HEIGHT - BOTTOM, TOP)
    parts = []
    for y in y_ticks:
        at = y_at(y)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{escape(form(y))}</text>')
    for x in x_ticks:
        parts.append(f'<text x="{x_at(x):.1f}" y="{HEIGHT - BOTTOM + 17}" text-anchor="middle">{x:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{escape(x_name)}</text>')
    for line, colour, dash in zip(lines, cycled(COLOURS), cycled(DASHES), strict=False):
        at = [(x_at(x), y_at(y)) for x, y in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
        parts.append(f'<polyline points="{path}" stroke="{colour}" stroke-dasharray="{dash}"/>')
        if len(at) < 30:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}"/>' for x, y in at]
    said = "; ".join(f"{line.name} from {form(line.points[0][1])} to {form(line.points[-1][1])}" for line in lines)
    label = escape(f"{title}: {said}, by {x_name}")
    drawn = f"<title>{label}</title>{''.join(parts)}"
    return (
        f"<figure><figcaption>{escape(title)} <small>{escape(y_name)}</small></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}</svg>'
        f"{legend(lines) if len(lines) > 1 else ''}</figure>"
    )


def legend(lines: list[Line]) -> str:
    items = []
    for line, colour, dash in zip(lines, cycled(COLOURS), cycled(DASHES), strict=False):
        key = f'<line x1="0" x2="26" y1="5" y2="5" stroke="{colour}" stroke-dasharray="{dash}"/>'
        items.append(f'<li><svg class="key" viewBox="0 0 26 10" aria-hidden="true">{key}</svg>{escape(line.name)}</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'


def cycled(values: tuple) -> list:
    return [*values] * 8


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most MOST of them, the first and the last included."""
    if len(points) <= MOST:
        return points
    return [points[round(i * (len(points) - 1) / (MOST - 1))] for i in range(MOST)]


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Map low..high to start..end; a single value to the middle."""
    if high <= low:
        return lambda value: (start + end) / 2
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within low..high, about `count`; the value itself where there is one alone."""
    rough = (high - low) / count
    if not rough > max(abs(high), abs(low), 1e-18) * 1e-12:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]
