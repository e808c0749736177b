"""Tables of captions: rows by the line on which they begin, each either its fields or what is wrong with it.

Lines end at a line feed, a carriage return or both, and nowhere else: writers do not quote U+2028, a vertical tab or
the byte 0x85, which `str.splitlines` takes for ends. A row may go over several lines inside quotes. Where such a row
is no row, the quote was a stray one: its first line alone is bad, and reading goes on with the second.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from mmpt.store.errors import UserError
from mmpt.store.text_files import LONGEST_MARK, refuse_other_files, undecodable

LONGEST_LINE = 1 << 20  # characters: a caption has hundreds
MOST_LINES = 1000  # of one row
SEPARATORS = ";\t|"


@dataclass(frozen=True)
class Line:
    """One row of a file.

    Args:
        number: of the line on which it begins.
        fields: None: something is wrong with the row.
        problem: (what is wrong, found, expected).
    """

    number: int
    fields: Mapping[str, Any] | None
    problem: tuple[str, str, str] | None = None

    @property
    def fault(self) -> tuple[str, str, str, str, str]:
        """(kind, what, found, expected, fix) of a row without fields."""
        what, found, expected = self.problem or ("", "", "")
        return "bad_line", what, found, expected, "correct the line"


def csv_header(file: Path, where: str, encoding: str = "utf-8-sig") -> list[str]:
    """Column names of a CSV file, stripped.

    Raises:
        UserError: bytes that are not text in `encoding`, a header that is no row, a column named twice.
    """
    with text_file(file, where, encoding) as stream:
        return _header(_Rows(stream, where), where)


def csv_lines(file: Path, where: str, keep: Sequence[str], encoding: str = "utf-8-sig") -> Iterator[Line]:
    """Every row after the header; cells that are empty are left out, except those of the columns `keep`."""
    with text_file(file, where, encoding) as stream:
        rows = _Rows(stream, where)
        header = _header(rows, where)
        rows.columns = len(header)
        for number, row, problem in rows:
            if row is None:
                yield Line(number, None, problem)
            elif any(cell.strip() for cell in row):
                fields = {k: v for k, v in zip(header, row, strict=True) if k and (v.strip() or k in keep)}
                yield Line(number, fields)


def need_columns(header: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Refuse a table without one of the columns.

    Raises:
        UserError: naming those that are missing.
    """
    if missing := [column for column in needed if column not in header]:
        raise UserError(
            f"missing column: {', '.join(missing)}",
            where=f"{where}:1",
            found=short(", ".join(header)) or "nothing",
            expected="a header with " + ", ".join(needed),
            fix=separator_hint(header),
        )


def separator_hint(header: Sequence[str]) -> str:
    """What to do where a header is one cell that another separator cuts into several; else ""."""
    used = [mark for mark in SEPARATORS if len(header) == 1 and mark in header[0]]
    return f"its cells are separated by {used[0]!r}: save it with commas" if used else "add the column"


def text_file(file: Path, where: str, encoding: str = "utf-8-sig") -> TextIO:
    """A text file, opened so that only line feeds and carriage returns end its lines.

    Raises:
        UserError: compressed, or in UTF-16, by its first bytes; or it may not be read.
    """
    try:
        with file.open("rb") as stream:
            refuse_other_files(stream.read(LONGEST_MARK), where)
        return file.open(encoding=encoding, newline="")
    except OSError as error:
        raise UserError("cannot be read", where=where, found=error.strerror or error) from None


def short(text: str) -> str:
    """At most 80 characters of a text for a message, control characters escaped."""
    text = text if len(text) <= 80 else text[:77] + "..."
    return text if text.isprintable() else repr(text)[1:-1]


class _TooLong(Exception):
    """A line that is longer than any row."""


class _Rows(Iterator[tuple[int, list[str] | None, tuple[str, str, str] | None]]):
    """(line number, cells, None) or (line number, None, problem) of each row.

    columns: how many cells a row has; None: any number.
    """

    def __init__(self, stream: TextIO, where: str):
        self.columns: int | None = None
        self._stream, self._where = stream, where
        self._waiting: deque[str] = deque()  # lines that are read again
        self._number = 0  # of the last line taken

    def __next__(self) -> tuple[int, list[str] | None, tuple[str, str, str] | None]:
        taken: list[str] = []
        reader = csv.reader(self._lines(taken), strict=True)
        try:
            row = next(reader)
        except _TooLong:
            wrong = ("line is too long", f"more than {LONGEST_LINE} characters", "one row per line")
        except csv.Error as error:
            wrong = ("not CSV", short(str(error)), 'comma-separated values, quoted with "')
        else:
            if self.columns is None or len(row) == self.columns or not row:
                return self._number - len(taken) + 1, row, None
            wrong = ("wrong number of columns", str(len(row)), str(self.columns))
        number = self._number - len(taken) + 1
        if len(taken) > 1:
            self._waiting.extendleft(reversed(taken[1:]))
            self._number = number
            wrong = ("a quote opens and does not close", short(taken[0].strip()), "one row per line, or whole quotes")
        return number, None, wrong

    def _lines(self, taken: list[str]) -> Iterator[str]:
        while len(taken) < MOST_LINES:
            line = self._waiting.popleft() if self._waiting else self._read()
            if not line:
                return
            self._number += 1
            taken.append(line)
            if len(line) == LONGEST_LINE:
                raise _TooLong
            yield line

    def _read(self) -> str:
        try:
            line = self._stream.readline(LONGEST_LINE)
        except UnicodeDecodeError:
            raise undecodable(Path(self._stream.name), self._where) from None
        rest = line
        while len(rest) == LONGEST_LINE:  # of a longer one the beginning stands for it
            rest = self._stream.readline(LONGEST_LINE)
        return line


def _header(rows: _Rows, where: str) -> list[str]:
    _, row, problem = next(rows, (1, [], None))
    if row is None:
        what, found, expected = problem or ("", "", "")
        raise UserError(what, where=f"{where}:1", found=found, expected=expected, fix="correct the header")
    header = [cell.strip() for cell in row]
    if twice := sorted({cell for cell in header if cell and header.count(cell) > 1}):
        raise UserError(
            "column named twice",
            where=f"{where}:1",
            found=short(", ".join(twice)),
            expected="each column once",
            fix="rename one of them",
        )
    return header
