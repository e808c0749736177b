"""Rows of parquet and arrow files: their fields, and where each row's medium lies.

The bytes of media stay in the file. Of a parquet file its statistics say in which row groups all rows have one; where
they do not, the column is gone over. An arrow file is mapped, and a medium's place in it is where pyarrow points to.
What a damaged file has lost is a row with what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.cells import column_size, field_names, leaves, open_parquet, require_pyarrow, unreadable
from mmpt.codecs.media_error import MediaError, said
from mmpt.store.errors import UserError

BATCH = 1000  # rows
MOST_LOST = 100_000  # rows
END = b"\xff\xff\xff\xff\0\0\0\0"  # of an arrow stream

Wrong = tuple[str, str, str]  # what, found, expected


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are read.

    Args:
        medium: the column of media. leaf: of its bytes, as audio.bytes; "" where it holds paths only.
        path: of their paths, as audio.path; "" where there is none.
        fields: the other columns.
    """

    medium: str
    leaf: str
    path: str
    fields: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of a file.

    Args:
        number: from 0. given: column -> value, without those that are null.
        place: {member, row} or {member, at, bytes} of the medium's bytes; None where there are none.
        path: of the medium, as the row says it.
    """

    number: int
    given: Mapping[str, Any] = field(default_factory=dict)
    place: Mapping[str, Any] | None = None
    path: Any = None
    wrong: Wrong | None = None


def parquet_rows(file: Path, where: str, layout: Layout) -> Iterator[Row]:
    """Every row of a parquet file. Of lost rows at most MOST_LOST per row group are given one by one.

    Raises:
        UserError: not a parquet file; a row group that is too large to be read.
    """
    parquet, start = open_parquet(file, where), 0
    for group in range(parquet.metadata.num_row_groups):
        about, done = parquet.metadata.row_group(group), 0
        for column in (*layout.fields, *filter(None, (layout.leaf, layout.path))):
            _checked_size(parquet, group, column, where)
        try:
            for row in islice(_group_rows(parquet, group, start, layout), about.num_rows):
                yield row
                done += 1
            lost = "fewer rows than it says"
        except Exception as error:  # whatever pyarrow makes of damaged pages
            lost = said(error, file)
        for number in range(done, min(about.num_rows, done + MOST_LOST)):
            yield Row(start + number, wrong=("the file is damaged here", lost, "a whole parquet file"))
        start += about.num_rows


def _checked_size(parquet: Any, group: int, column: str, where: str) -> None:
    try:
        column_size(parquet, group, column)
    except MediaError as error:
        raise UserError(
            error.what, where=f"{where}: {column}", found=error.found, expected=error.expected, fix=error.fix
        ) from None


def _group_rows(parquet: Any, group: int, start: int, layout: Layout) -> Iterator[Row]:
    """The rows of a row group whose first is row `start` of the file."""
    there = _have_bytes(parquet, group, layout.leaf) if layout.leaf else repeat(False)
    columns = [*layout.fields, *filter(None, (layout.path,))]
    rows = chain.from_iterable(map(_fields, _batches(parquet, group, columns)))
    for number, ((given, wrong), has_bytes) in enumerate(zip(rows, there, strict=False), start):
        path = _popped(given, layout)
        yield Row(number, given, {"member": layout.leaf, "row": number} if has_bytes else None, path, wrong)


def _batches(parquet: Any, group: int, columns: list[str]) -> Iterator[Any]:
    return parquet.iter_batches(batch_size=BATCH, row_groups=[group], columns=columns, use_threads=False)


def _have_bytes(parquet: Any, group: int, leaf: str) -> Iterator[bool]:
    """For each row of a row group, whether it has a medium: by the column's statistics, else by its values."""
    about = parquet.metadata.row_group(group)
    known = about.column(leaves(parquet).index(leaf)).statistics
    if known is not None and known.has_null_count and known.null_count in (0, about.num_rows):
        return repeat(not known.null_count, about.num_rows)
    return _not_null(parquet, group, leaf)


def _not_null(parquet: Any, group: int, leaf: str) -> Iterator[bool]:
    for batch in parquet.iter_batches(batch_size=16, row_groups=[group], columns=[leaf], use_threads=False):
        array = batch.column(0)
        while hasattr(array, "field"):
            array = array.flatten()[0]
        yield from array.is_valid().to_pylist()


def _popped(given: dict[str, Any], layout: Layout) -> Any:
    """The path of the medium, taken out of a row's fields."""
    value = given.pop(layout.medium, None)
    return value.get("path") if isinstance(value, dict) else value


def _fields(batch: Any) -> Iterator[tuple[dict[str, Any], Wrong | None]]:
    """(column -> value, what is wrong) of each row of a batch; text that is not UTF-8 costs its own row."""
    try:
        rows: list[dict[str, Any] | None] = batch.to_pylist()
    except UnicodeDecodeError:
        rows = [_alone(batch.slice(at, 1)) for at in range(batch.num_rows)]
    for row in rows:
        if row is None:
            yield {}, ("not UTF-8 text", "other bytes in a column of text", "UTF-8")
        else:
            yield {name: _plain(value) for name, value in row.items() if value is not None}, None


def _alone(batch: Any) -> dict[str, Any] | None:
    try:
        return batch.to_pylist()[0]
    except UnicodeDecodeError:
        return None


def _plain(value: Any) -> Any:
    """What JSON can say of a value; times, decimals and bytes as their text."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)


def arrow_schema(file: Path, where: str) -> Any:
    """The schema of an arrow file. Raises UserError as `arrow_rows`."""
    return _arrow(file, where)[1].schema


def arrow_rows(file: Path, where: str, layout: Layout) -> Iterator[Row]:
    """Every row of an arrow file, in the stream's or the file's form.

    Raises:
        UserError: not an arrow file, or a compressed one.
    """
    mapped, reader = _arrow(file, where)
    batches = (
        iter(reader) if not hasattr(reader, "get_batch") else map(reader.get_batch, range(reader.num_record_batches))
    )
    number, wrong = 0, None
    try:
        for batch in batches:
            batch.validate(full=True)  # places in a damaged file may point anywhere
            for row in _batch_rows(batch, layout, mapped, number, where):
                yield Row(number, *row)
                number += 1
        if not hasattr(reader, "get_batch") and mapped.slice(max(0, mapped.size - len(END))).to_pybytes() != END:
            wrong = "it stops before its end mark"
    except UserError:
        raise
    except Exception as error:  # whatever pyarrow makes of a damaged batch
        wrong = said(error, file)
    if wrong:
        yield Row(number, wrong=("the file is damaged behind this row", wrong, "a whole arrow file"))


def _arrow(file: Path, where: str) -> tuple[Any, Any]:
    """(the mapped file, its reader)."""
    require_pyarrow(where)
    import pyarrow

    try:
        with pyarrow.memory_map(str(file)) as source:
            mapped = source.read_buffer()
        in_file_form = mapped.slice(0, 6).to_pybytes() == b"ARROW1"
        reader = (pyarrow.ipc.open_file if in_file_form else pyarrow.ipc.open_stream)(mapped)
        field_names(reader.schema)
        return mapped, reader
    except Exception as error:  # as in `open_parquet`
        raise unreadable("arrow", error, file, where) from None


def _batch_rows(batch: Any, layout: Layout, mapped: Any, number: int, where: str) -> Iterator[tuple[Any, ...]]:
    media = batch.column(batch.schema.names.index(layout.medium))
    values = media.field("bytes") if layout.leaf.endswith(".bytes") else media
    paths = media.field("path").to_pylist() if layout.path.endswith(".path") else [None] * batch.num_rows
    if not layout.leaf:
        paths = media.to_pylist()
    places = _places(values, mapped, where) if layout.leaf else [None] * batch.num_rows
    valid = media.is_valid().to_pylist()
    for at, (given, wrong) in enumerate(_fields(batch.select(list(layout.fields)))):
        there = places[at] if valid[at] else None
        place = None if there is None else {"member": f"{layout.leaf}[{number + at}]", **there}
        yield given, place, paths[at] if valid[at] else None, wrong


def _places(values: Any, mapped: Any, where: str) -> list[dict[str, int] | None]:
    """Where the values of a column of bytes lie in a mapped file; None of those that are null.

    Raises:
        UserError: they lie elsewhere, because pyarrow had to decompress them.
    """
    _, offsets, data = values.buffers()
    wide = "large" in str(values.type)
    ends = np.frombuffer(offsets, np.int64 if wide else np.int32)[values.offset : values.offset + len(values) + 1]
    base = 0 if data is None or not data.size else data.address - mapped.address
    if not (base >= 0 and base + (0 if data is None else data.size) <= mapped.size):
        raise UserError(
            "a compressed arrow file has no places",
            where=where,
            expected="one that can be read in place",
            fix="write it without compression, or as parquet",
        )
    spans = zip(ends[:-1].tolist(), ends[1:].tolist(), values.is_valid().to_pylist(), strict=True)
    return [{"at": base + start, "bytes": end - start} if valid else None for start, end, valid in spans]
