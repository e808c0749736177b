"""Tables of captions: CSV rows by their line, each either its fields or what is wrong with it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError


@dataclass(frozen=True)
class Line:
    """One line of a file: its fields, or what is wrong with it."""

    number: int
    fields: Mapping[str, Any] | None
    problem: tuple[str, str, str] | None = None  # what, found, expected


def csv_header(file: Path, where: str, encoding: str = "utf-8-sig") -> list[str]:
    """Column names of a CSV file, stripped.

    Raises:
        UserError: bytes that are not text in `encoding`.
    """
    return [cell.strip() for cell in next(_rows(file, where, encoding), [])]


def csv_lines(file: Path, where: str, keep: Sequence[str], encoding: str = "utf-8-sig") -> Iterator[Line]:
    """Every row after the header; cells that are empty are left out, except those of the columns `keep`."""
    rows = _rows(file, where, encoding)
    header = [cell.strip() for cell in next(rows, [])]
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            what = 'comma-separated values, quoted with "'
            yield Line(rows.line_num, None, ("not CSV", short(str(error)), what))
            continue
        if row is None:
            return
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            yield Line(rows.line_num, None, ("wrong number of columns", str(len(row)), str(len(header))))
            continue
        yield Line(rows.line_num, {k: v for k, v in zip(header, row, strict=True) if v.strip() or k in keep})


def need_columns(header: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Refuse a table without one of the columns.

    Raises:
        UserError: naming those that are missing.
    """
    if missing := [column for column in needed if column not in header]:
        raise UserError(
            f"missing column: {', '.join(missing)}",
            where=f"{where}:1",
            found=", ".join(header) or "nothing",
            expected="a header with " + ", ".join(needed),
        )


def _rows(file: Path, where: str, encoding: str) -> Any:
    try:
        text = file.read_text(encoding=encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            "not UTF-8",
            where=where,
            found=short(str(error)),
            expected="UTF-8 text",
            fix="save the file as UTF-8",
        ) from error
    return csv.reader(text.splitlines(keepends=True), strict=True)


def short(text: str) -> str:
    """At most 80 characters of a text for a message."""
    return text if len(text) <= 80 else text[:77] + "..."
