"""Aligned columns for a terminal: plain text, no colour, as wide as the terminal or 80."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Collection, Sequence

GAP = "  "


def width() -> int:
    """Columns of the terminal; COLUMNS where it is set, 80 where there is no terminal."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def columns(
    rows: Sequence[Sequence[str]], *, head: Sequence[str] = (), right: Collection[int] = (), indent: str = ""
) -> list[str]:
    """One line per row, every column as wide as its widest cell.

    Args:
        rows: cells as text; a shorter row ends early.
        head: titles, written above if there are rows.
        right: indices of the columns that are flushed right.
    """
    table = [list(head), *map(list, rows)] if head and rows else [list(row) for row in rows]
    sizes: dict[int, int] = {}
    for row in table:
        for at, cell in enumerate(row):
            sizes[at] = max(sizes.get(at, 0), len(cell))
    return [
        indent + GAP.join(_padded(cell, sizes[at], at in right) for at, cell in enumerate(row)).rstrip()
        for row in table
    ]


def _padded(cell: str, size: int, right: bool) -> str:
    return cell.rjust(size) if right else cell.ljust(size)


def elided(text: str, most: int) -> str:
    """``text`` in at most ``most`` characters: its middle left out, because names differ at their ends."""
    if len(text) <= most:
        return text
    ahead = (most - 1) // 2
    return f"{text[:ahead]}…{text[len(text) - (most - 1 - ahead) :]}"


def wrapped(text: str, most: int, indent: str, *, first: str = "") -> list[str]:
    """A sentence over as many lines of ``most`` columns as it needs; a long word is not broken.

    Args:
        indent: of every line but the first, which has ``first``.
    """
    return textwrap.wrap(
        text,
        most,
        initial_indent=first,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
