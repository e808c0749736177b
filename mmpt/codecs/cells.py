"""Media in the rows of a parquet file, read where they lie: pyarrow decodes a row group batch by batch.

A value has no place of its own in a compressed page, so what is read for it is its batch and what stands before that in
the row group. Batches are kept (HELD bytes in a process), and a reader goes on where it stopped: rows in order are
decoded once. A writer may put all values of a row group into one page, which pyarrow reads whole; therefore a column of
more than LARGEST bytes in a row group is refused.
"""

from __future__ import annotations

import importlib.util
import io
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from mmpt.codecs.media_error import MediaError, said
from mmpt.store.errors import UserError

LARGEST = 1 << 30  # bytes of a column in a row group, uncompressed; reading it takes up to three times as much memory
BATCH = 8 << 20  # bytes that are decoded at once, by the mean of the row group
HELD = 128 << 20  # bytes of decoded batches that are kept
FILES, GROUPS = 8, 2  # files that are open, and row groups that are being read
BUFFER = 1 << 20  # bytes that pyarrow reads from a file at once
INSTALL = 'pip install "mmpt[readers]"'


def pyarrow_installed() -> bool:
    """Whether package pyarrow is there. Imports nothing."""
    return importlib.util.find_spec("pyarrow") is not None


def require_pyarrow(where: str) -> None:
    """Refuse to read parquet and arrow files without pyarrow.

    Args:
        where: the file, for the message.

    Raises:
        UserError: pyarrow is not installed.
    """
    if not pyarrow_installed():
        raise UserError(
            "package pyarrow is not installed",
            where=where,
            expected="pyarrow, which reads parquet and arrow files",
            fix=INSTALL,
        )


def open_parquet(file: Path, where: str) -> Any:
    """A `pyarrow.parquet.ParquetFile` that reads a little at a time.

    Raises:
        UserError: no pyarrow; not a parquet file, or a part of one.
    """
    require_pyarrow(where)
    from pyarrow.parquet import ParquetFile

    try:
        parquet = ParquetFile(file, pre_buffer=False, buffer_size=BUFFER)
        first_rows(parquet), leaves(parquet), field_names(parquet.schema_arrow)
    except Exception as error:  # thrift, I/O and sizes: whatever a damaged footer makes of it
        raise unreadable("parquet", error, file, where) from None
    return parquet


def unreadable(kind: str, error: Exception, file: Path, where: str) -> UserError:
    """The error to raise for a file that is no parquet or arrow file (`kind`), or a part of one."""
    return UserError(
        f"not {'an' if kind == 'arrow' else 'a'} {kind} file that can be read",
        where=where,
        found=said(error, file),
        expected=f"a whole {kind} file",
        fix="fetch it again",
    )


def first_rows(parquet: Any) -> list[int]:
    """The first row of each row group, and how many rows there are.

    Raises:
        ValueError: a row group with a negative number of rows.
    """
    about = parquet.metadata
    rows = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    if any(n < 0 for n in rows):
        raise ValueError(f"row groups of {min(rows)} rows")
    return [0, *accumulate(rows)]


def field_names(fields: Iterable[Any]) -> list[str]:
    """The names of an arrow schema's fields and of those inside them.

    Raises:
        UnicodeDecodeError: a name is not UTF-8.
    """
    return [
        name for one in fields for name in (one.name, *field_names(map(one.type.field, range(one.type.num_fields))))
    ]


def leaves(parquet: Any) -> list[str]:
    """Columns of single values, as audio.bytes, by their place in a row group."""
    return [parquet.schema.column(at).path for at in range(len(parquet.schema))]


@dataclass(frozen=True)
class Cell:
    """A value of a column of bytes.

    Args:
        file: parquet. column: of its schema, as audio.bytes. row: in the file.
    """

    file: Path
    column: str
    row: int

    @property
    def name(self) -> str:
        """How messages call it."""
        return f"{self.file.name}:{self.column}[{self.row}]"

    @property
    def parent(self) -> Path:
        """The folder of the file, which no message shall name."""
        return self.file.parent

    @cached_property
    def _data(self) -> bytes:
        return _READERS.value(self)

    def stat(self) -> os.stat_result:
        """The file's, with the value's size."""
        found = self.file.stat()
        return os.stat_result((*found[:6], len(self._data), *found[7:10]))

    def open(self, mode: str = "rb") -> BinaryIO:
        """A stream over the value."""
        return io.BytesIO(self._data)

    def read_bytes(self) -> bytes:
        """The value.

        Raises:
            MediaError: missing (null), unreadable (no such row, a damaged file).
        """
        return self._data


class _Group:
    """One column of one row group, decoded from its beginning on.

    Args:
        starts: first row of each batch so far, and of the next one.
    """

    def __init__(self, parquet: Any, column: str, group: int):
        about = parquet.metadata.row_group(group)
        rows = BATCH * about.num_rows // max(1, column_size(parquet, group, column))
        self.starts = [0]
        self._batches: Iterator[Any] = parquet.iter_batches(
            batch_size=max(1, min(about.num_rows, rows)), row_groups=[group], columns=[column], use_threads=False
        )

    def __next__(self) -> Any:
        array = next(self._batches).column(0)
        while hasattr(array, "field"):  # a struct of the one field that was asked for
            array = array.flatten()[0]
        self.starts.append(self.starts[-1] + len(array))
        return array


def column_size(parquet: Any, group: int, column: str) -> int:
    """Bytes of a column in a row group before compression, by the file's metadata.

    Args:
        column: of single values, as audio.bytes, or a whole one, as audio.

    Raises:
        MediaError: more than LARGEST.
    """
    about = parquet.metadata.row_group(group)
    inside = [at for at, leaf in enumerate(leaves(parquet)) if leaf == column or leaf.startswith(f"{column}.")]
    size = sum(max(0, about.column(at).total_uncompressed_size) for at in inside)
    if size > LARGEST:
        raise MediaError(
            "unreadable",
            "a row group is too large to be read",
            where=column,
            found=f"{size} bytes in {about.num_rows} rows",
            expected=f"at most {LARGEST} bytes of a column",
            fix="write the file with smaller row groups, as row_group_size=100",
        )
    return size


class _Readers:
    """The files that are open and the batches that were decoded, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple, Any] = OrderedDict()
        self._groups: OrderedDict[tuple, _Group] = OrderedDict()
        self._batches: OrderedDict[tuple, Any] = OrderedDict()
        self._held = 0

    def value(self, cell: Cell) -> bytes:
        """The bytes of a cell. Raises MediaError, and OSError where the file is not there."""
        found = cell.file.stat()
        key = (cell.file, found.st_size, found.st_mtime_ns)
        with self._lock:
            try:
                value = self._value(key, cell)
            except MediaError:
                raise
            except StopIteration:  # fewer rows than the footer says, or an earlier row was damaged
                raise _unreadable(cell, "its row group ends before this row") from None
            except Exception as error:  # whatever pyarrow makes of damaged pages, and UserError of a damaged file
                raise _unreadable(cell, said(error, cell.file)) from None
        if value is None:
            raise MediaError(
                "missing",
                "the row has no medium",
                where=cell.name,
                found="null",
                expected="bytes",
                fix="restore it or drop the record",
            )
        return value

    def _value(self, key: tuple, cell: Cell) -> bytes | None:
        parquet, starts = self._kept(self._files, key, lambda: _opened(cell.file), FILES)
        group = bisect_right(starts, cell.row) - 1
        if not 0 <= group < len(starts) - 1:
            raise _unreadable(cell, f"{starts[-1]} rows")
        at, row = (*key, cell.column, group), cell.row - starts[group]
        reader = self._kept(self._groups, at, lambda: _Group(parquet, cell.column, group), GROUPS)
        if row < reader.starts[-1]:
            start = reader.starts[bisect_right(reader.starts, row) - 1]
            if (*at, start) in self._batches:
                self._batches.move_to_end((*at, start))
                return self._batches[*at, start][row - start].as_py()
            reader = self._groups[at] = _Group(parquet, cell.column, group)
        while row >= reader.starts[-1]:
            self._keep((*at, reader.starts[-1]), array := next(reader))
        return array[row - reader.starts[-2]].as_py()

    def _keep(self, key: tuple, array: Any) -> None:
        if (before := self._batches.pop(key, None)) is not None:
            self._held -= before.nbytes
        self._batches[key] = array
        self._held += array.nbytes
        while self._held > HELD and len(self._batches) > 1:
            self._held -= self._batches.popitem(last=False)[1].nbytes

    @staticmethod
    def _kept(store: OrderedDict[tuple, Any], key: tuple, make: Any, most: int) -> Any:
        if key not in store:
            store[key] = make()
            while len(store) > most:
                store.popitem(last=False)
        store.move_to_end(key)
        return store[key]


def _unreadable(cell: Cell, found: str) -> MediaError:
    fix = "fetch it again, or write it anew"
    return MediaError(
        "unreadable", "a value that cannot be read", where=cell.name, found=found, expected="a whole file", fix=fix
    )


def _opened(file: Path) -> tuple[Any, list[int]]:
    """(the open file, its `first_rows`)."""
    parquet = open_parquet(file, file.name)
    return parquet, first_rows(parquet)


_READERS = _Readers()
