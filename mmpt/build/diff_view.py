"""The lines of `doit diff`: a comparison (comparison.py) as sections of aligned columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmpt.gating.columns import columns, wrapped
from mmpt.gating.text import number
from mmpt.store.canonical import canonical_json

Row = Mapping[str, Any]

SHOWN = 12  # rows of code and of packages; --json has them all
NARROW, WIDE = 26, 110  # columns that a metric's name may take; the second from terminals as wide as that on


def diff_lines(found: Row, width: int) -> list[str]:
    """The whole comparison, the most telling first."""
    lines = columns(
        [(letter.upper(), found[letter]["name"], found[letter]["decision"] or "not decided") for letter in "ab"]
    )
    for letter in "ab":
        lines += _section(f"not believed of {letter.upper()}", found[letter]["damaged"])
        lines += _section(f"{letter.upper()} lacks", wrapped(", ".join(found["lacks"][letter]), width - 2, ""))
    lines += _section("verdicts", list(_verdicts(found["verdicts"], width)))
    lines += _section("checks that changed", _checks(found["checks"]))
    lines += _section("bounds", _checks(found["bounds"]))
    lines += _section(
        f"metrics: {len(found['metrics'])} of {found['compared']} differ", _metrics(found["metrics"], width)
    )
    for title, key in (
        ("profile keys", "profile"),
        ("media and weights", "inputs"),
        ("code", "code"),
        ("packages", "packages"),
        ("runtime", "runtime"),
        ("machine", "machine"),
    ):
        lines += _section(title, _pairs(found[key], width, SHOWN if key in ("code", "packages") else len(found[key])))
    differing = [one["name"] for one in found["outputs"]]
    outputs = f"outputs: {found['stages'] - len(differing)} of {found['stages']} stages byte-identical"
    return [
        *lines,
        "",
        *wrapped(outputs + (f"; not: {', '.join(differing)}" if differing else ""), width, "  "),
    ]


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", title, *(f"  {line}" for line in lines)] if lines else []


def _verdicts(rows: Sequence[Row], width: int) -> Iterator[str]:
    for row in rows:
        yield f"{row['gate']}  {row['a']} -> {row['b']}  {row['title']}"
        for letter in "ab":
            if row[f"reason_{letter}"]:
                yield from wrapped(row[f"reason_{letter}"], width - 2, "       ", first=f"    {letter.upper()}: ")


def _checks(rows: Sequence[Row]) -> list[str]:
    return columns([(row["gate"], _named(row["check"], row["slice"]), *_arrow(row)) for row in rows])


def _arrow(row: Row) -> tuple[str, str, str]:
    return _plain(row["a"]), "->", _plain(row["b"])


def _named(name: str, part: str) -> str:
    return f"{name} [{part}]" if part else name


def _metrics(rows: Sequence[Row], width: int) -> list[str]:
    """A line a metric; a long name has one of its own above, n that differs and an interval one below."""
    most = NARROW if width < WIDE else WIDE
    names = [_named(row["metric"], row["slice"]) for row in rows]
    cells = [
        (
            row["gate"] if len(name) <= most else "",
            name if len(name) <= most else "",
            number(row["a"]["value"]),
            number(row["b"]["value"]),
            "" if row["delta"] is None else f"{row['delta']:+.4g}",
            row["change"] if row["change"] != "different" else "",
            "" if row["a"]["n"] != row["b"]["n"] else f"{row['a']['n']}",
        )
        for row, name in zip(rows, names, strict=True)
    ]
    shown = columns(cells, head=("", "metric", "A", "B", "B - A", "", "n"), right={2, 3, 4, 6})
    lines = shown[:1]
    for row, name, line in zip(rows, names, shown[1:], strict=True):
        above = [f"{row['gate']}  {name}"] if len(name) > most else []
        lines += [*above, line, *([f"      {more}"] if (more := _more(row)) else [])]
    return lines


def _more(row: Row) -> str:
    """What one line has no room for: "n 256 -> 64, 95 % 0.61 .. 0.83 -> 0.62 .. 0.83"."""
    a, b = row["a"], row["b"]
    told = [f"n {a['n']} -> {b['n']}"] if a["n"] != b["n"] else []
    intervals = [_interval(side) for side in (a, b)]
    told += [f"95 % {' -> '.join(one or 'none' for one in intervals)}"] if any(intervals) else []
    return ", ".join(told)


def _interval(side: Row) -> str:
    if side["ci_low"] is None or side["ci_high"] is None:
        return ""
    return f"{number(side['ci_low'])} .. {number(side['ci_high'])}"


def _pairs(rows: Sequence[Row], width: int, most: int) -> list[str]:
    lines = []
    for row in rows[:most]:
        lines += wrapped(f"{row['name']}: {' '.join(_arrow(row))}", width - 2, "    ")
    more = len(rows) - most
    return lines + [f"and {more} more: --json has all"] * (more > 0)


def _plain(value: Any) -> str:
    """A value as text: digests by their first 12 digits, nothing as "(none)"."""
    if value is None:
        return "(none)"
    if isinstance(value, str):
        return value[:12] if len(value) == 64 else value or '""'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value) if isinstance(value, int) else f"{value:.10g}"
    return canonical_json(value).decode()
