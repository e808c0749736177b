"""Small parquet and arrow files as the library `datasets` writes them, with its metadata but without the library."""

import json

import pytest

from mmpt.codecs.cells import pyarrow_installed

NEEDS_PYARROW = pytest.mark.skipif(not pyarrow_installed(), reason="package pyarrow is not installed")
MEDIUM = "medium"
"""Type of a column of features Audio or Image."""


def table_of(columns, kinds=None, features=None):
    """A table of {column: values}; kinds: column -> MEDIUM or a type's name; features: as the library says them."""
    import pyarrow as pa

    types = {name: pa.type_for_alias(kind) for name, kind in (kinds or {}).items() if kind != MEDIUM}
    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    types |= {name: medium for name, kind in (kinds or {}).items() if kind == MEDIUM}
    made = pa.table({name: pa.array(values, types.get(name)) for name, values in columns.items()})
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return made


def write(path, table, rows=3, form="stream", compression=None):
    """To `path`, by its suffix; rows: of a row group or batch."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
        return path
    options = pa.ipc.IpcWriteOptions(compression=compression)
    opened = pa.ipc.new_stream if form == "stream" else pa.ipc.new_file
    with opened(str(path), table.schema, options=options) as out:
        for batch in table.to_batches(max_chunksize=rows):
            out.write_batch(batch)
    return path
