"""Charts as inline SVG: lines, intervals and the task graph. Colours are CSS classes, so that dark and light
both work.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from mmpt.gating.text import number

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 34
NODE, TALL, COLUMN, ROW = 142, 44, 164, 66  # of the graph: a stage's size, steps to the next column and row
TONES = 6  # line colours in page.css
WIDE = 15  # times the smallest value: from there on positive curves are drawn over their logarithm

Scale = Callable[[float], float]


def line_chart(title: str, curves: Sequence[Mapping[str, Any]], unit: str) -> Markup:
    """One chart of several curves {"name", "steps", "values"} over the step; wide ranges on a log scale."""
    steps = [step for curve in curves for step in curve["steps"]]
    values = [value for curve in curves for value in curve["values"] if math.isfinite(value)]
    if not steps or not values:
        return Markup("")
    across = (min(steps), max(max(steps), min(steps) + 1))
    log = min(values) > 0 and max(values) > WIDE * min(values)
    ticks = log_ticks(min(values), max(values)) if log else nice_ticks(min(values), max(values))
    scale = math.log10 if log else float
    low, high = scale(ticks[0]), scale(ticks[-1])

    def x(step: float) -> float:
        return LEFT + (step - across[0]) / (across[1] - across[0]) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (scale(value) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    unit = ", ".join(part for part in (unit, "log scale" if log else "") if part)
    parts = [_open(WIDTH, HEIGHT, f"{title}: {', '.join(curve['name'] for curve in curves)} over the step")]
    for tick in ticks:
        parts += [
            _line("grid", LEFT, y(tick), WIDTH - RIGHT, y(tick)),
            _text(number(tick), LEFT - 6, y(tick) + 4, "end"),
        ]
    for tick in nice_ticks(*across, 5):
        if across[0] <= tick <= across[1]:
            parts.append(_text(number(tick), x(tick), HEIGHT - BOTTOM + 16, "middle"))
    parts += [_text("step", WIDTH - RIGHT, HEIGHT - 4, "end"), _text(unit, 4, HEIGHT - 4, "start")]
    for place, curve in enumerate(curves):
        parts += _curve(curve, place, x, y)
    return Markup("".join(parts) + "</svg>")  # every text in it is a number or was escaped


def tone(place: int) -> str:
    """Classes of the line at ``place``: colours first, then the same colours dashed, then dotted."""
    return f"c{place % TONES} d{min(place // TONES, 2)}"


def _curve(curve: Mapping[str, Any], place: int, x: Scale, y: Scale) -> list[str]:
    """A line, with its points where there are few."""
    pairs = zip(curve["steps"], curve["values"], strict=True)
    points = [(x(step), y(value)) for step, value in pairs if math.isfinite(value)]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    dots = [_dot(f"c{place % TONES}", px, py, 3) for px, py in points] if len(points) < 12 else []
    return [f'<polyline class="line {tone(place)}" points="{path}"/>', *dots]


def sparkline(title: str, values: Sequence[float | None], bound: float | None) -> Markup:
    """A small line over equal steps, oldest first, its last point marked and the bound dashed.

    Args:
        values: None where there was no value; with fewer than two numbers nothing is drawn.
    """
    known = [(place, value) for place, value in enumerate(values) if value is not None]
    if len(known) < 2:
        return Markup("")
    inside = [value for _, value in known] + ([bound] if bound is not None else [])
    low, span = min(inside), (max(inside) - min(inside)) or 1.0

    def y(value: float) -> float:
        return 22 - (value - low) / span * 18

    wide = 96 / (len(values) - 1)
    points = [(4 + wide * place, y(value)) for place, value in known]
    path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
    parts = [f'<svg class="spark" viewBox="0 0 104 26" role="img" aria-label="{escape(title)}">']
    parts += [_line("bound", 0, y(bound), 104, y(bound))] if bound is not None else []
    parts += [f'<polyline class="line c0" points="{path}"/>', _dot("c0", *points[-1], 3)]
    return Markup("".join(parts) + "</svg>")


def interval_chart(title: str, rows: Sequence[Mapping[str, Any]], bound: float | None) -> Markup:
    """A row each {"label", "gap", "ci_low", "ci_high", "last"}: point and interval, zero and bound."""
    if not rows:
        return Markup("")
    ends = [end for row in rows for end in (row["ci_low"], row["ci_high"])]
    ticks = nice_ticks(min(0.0, *ends), max(bound or 0.0, *ends), 5)
    left, step = 150, 26
    height = TOP + step * len(rows) + BOTTOM
    foot = height - BOTTOM

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (WIDTH - left - RIGHT - 8)

    parts = [_open(WIDTH, height, title)]
    for tick in ticks:
        parts += [
            _line("grid", x(tick), TOP, x(tick), foot),
            _text(number(tick), x(tick), foot + 16, "middle"),
        ]
    parts.append(_line("zero", x(0), TOP, x(0), foot))
    parts += [_line("bound", x(bound), TOP, x(bound), foot)] if bound is not None else []
    for place, row in enumerate(rows):
        middle, colour = TOP + step * (place + 0.5), "c1" if row["last"] else "c5"
        parts.append(f'<text class="label" x="4" y="{middle + 4:.1f}">{escape(row["label"])}</text>')
        parts.append(_line(f"whisker {colour}", x(row["ci_low"]), middle, x(row["ci_high"]), middle))
        parts.append(_dot(colour, x(row["gap"]), middle, 4.5))
    parts.append(_text("gap, nats per token", WIDTH - RIGHT, height - 4, "end"))
    return Markup("".join(parts) + "</svg>")


def wave(peaks: Sequence[float]) -> Markup:
    """A sound as bars around the middle line."""
    sizes = [min(1.0, max(0.02, peak)) for peak in peaks]
    bars = "".join(
        f'<rect x="{place * 4}" y="{24 - 22 * size:.1f}" width="3" height="{44 * size:.1f}" rx="1"/>'
        for place, size in enumerate(sizes)
    )
    box = f"0 0 {4 * max(1, len(peaks))} 48"
    return Markup(f'<svg class="wave" viewBox="{box}" preserveAspectRatio="none" aria-hidden="true">{bars}</svg>')


def task_graph(nodes: Sequence[Mapping[str, Any]]) -> Markup:
    """The stages in rows by their depth.

    Args:
        nodes: {"name", "before": stages that come before it, "tone": its class, "under": second line}.
    """
    places, width, height = _places(nodes)
    label = "stages and what comes before them; the table below it says the same"
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    parts = [f'<svg {size} role="img" aria-label="{label}">']
    for node in nodes:
        x, y = places[node["name"]]
        parts += [_edge(places[name], (x, y)) for name in _reduced(node["name"], nodes)]
    for node in nodes:
        x, y = places[node["name"]]
        parts.append(
            f'<g class="node {node["tone"]}">'
            f'<rect x="{x:.0f}" y="{y}" width="{NODE}" height="{TALL}" rx="7"/>'
            f'<text x="{x + 9:.0f}" y="{y + 18}">{escape(node["name"])}</text>'
            f'<text class="under" x="{x + 9:.0f}" y="{y + 35}">{escape(node["under"])}</text></g>'
        )
    return Markup("".join(parts) + "</svg>")


def _edge(above: tuple[float, int], below: tuple[float, int]) -> str:
    x1, y1, x2, y2 = above[0] + NODE / 2, above[1] + TALL, below[0] + NODE / 2, below[1]
    middle = (y1 + y2) / 2
    return f'<path class="edge" d="M{x1:.0f} {y1} C{x1:.0f} {middle} {x2:.0f} {middle} {x2:.0f} {y2}"/>'


def _places(nodes: Sequence[Mapping[str, Any]]) -> tuple[dict[str, tuple[float, int]], int, int]:
    """Upper left corner of each node, and the drawing's size; a row is ordered by where its parents stand."""
    depth = _depths(nodes)
    rows: dict[int, list[Mapping[str, Any]]] = {}
    for node in nodes:
        rows.setdefault(depth[node["name"]], []).append(node)
    width = COLUMN * max(map(len, rows.values()), default=1)
    places: dict[str, tuple[float, int]] = {}
    for place, level in enumerate(sorted(rows)):
        row = sorted(rows[level], key=functools.partial(_under_parents, places=places))
        start = (width - COLUMN * len(row)) / 2 + (COLUMN - NODE) / 2
        at = {node["name"]: (start + COLUMN * column, 4 + ROW * place) for column, node in enumerate(row)}
        places = {**places, **at}
    return places, width, 4 + ROW * len(rows)


def _under_parents(node: Mapping[str, Any], places: Mapping[str, tuple[float, int]]) -> float:
    above = [places[name][0] for name in node["before"] if name in places]
    return sum(above) / len(above) if above else 0.0


def _depths(nodes: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    inputs = {node["name"]: node["before"] for node in nodes}
    depth: dict[str, int] = {}

    def find(name: str) -> int:
        if name not in depth:
            depth[name] = 0  # ends a circle, should a receipt hold one
            depth[name] = 1 + max((find(one) for one in inputs[name]), default=-1)
        return depth[name]

    for name in inputs:
        find(name)
    return depth


def _reduced(name: str, nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What comes before a stage, without what also comes before those: fewer lines, the same order."""
    inputs = {node["name"]: set(node["before"]) for node in nodes}

    def above(one: str, seen: set[str]) -> set[str]:
        for other in inputs[one] - seen:
            seen.add(other)
            above(other, seen)
        return seen

    mine = inputs[name]
    return sorted(one for one in mine if not any(one in above(other, set()) for other in mine if other != one))


def nice_ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers from at or below ``low`` to at or above ``high``, about ``wanted`` steps."""
    span = high - low
    if span <= abs(high) * 1e-9:
        span = abs(high) or 1.0
    raw = span / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 12) for place in range(first, max(last, first + 1) + 1)]


def log_ticks(low: float, high: float, most: int = 7) -> list[float]:
    """1, 2 and 5 times powers of ten from at or below ``low`` to at or above ``high``, or fewer of them."""
    powers = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        first = max(place for place, tick in enumerate(ticks) if tick <= low * (1 + 1e-9))
        last = min((place for place, tick in enumerate(ticks) if tick >= high * (1 - 1e-9)), default=None)
        shown = ticks[first:] if last is None else ticks[first : max(last, first + 1) + 1]
        if len(shown) <= most:
            return shown
    return shown[:: -(-len(shown) // most)] + ([shown[-1]] if (len(shown) - 1) % -(-len(shown) // most) else [])


def _open(width: int, height: float, label: str) -> str:
    return f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(text: str, x: float, y: float, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(tone: str, x: float, y: float, radius: float) -> str:
    return f'<circle class="dot {tone}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"/>'
