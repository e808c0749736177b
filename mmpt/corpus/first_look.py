"""Quick checks of a corpus's captions for `doit plan`: what stage corpus would refuse.

Tables are read; media are looked up and not opened. Of readers that yield as they read, the first RECORDS records are
read (0.15 s). A published data set is read whole, or not at all where its folder holds more than FILES names or its
tables more than BYTES: both bounds are those of sizes, so that two looks at one folder say the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from mmpt.codecs.cells import pyarrow_installed
from mmpt.corpus.problems import Problem, refuse
from mmpt.corpus.readers import distinct, no_records, read_source

RECORDS = 2000
FILES = 20_000
BYTES = 4 << 20
TABLES = (".csv", ".json")
STREAMED = ("captions", "table", "webdataset", "parquet")  # readers that read on while they yield


def first_look(sources: Sequence[Mapping[str, Any]], folders: Mapping[str, Path], on_bad_record: str) -> None:
    """Refuse what stage corpus would refuse of these sources.

    Args:
        sources: of the profile. folders: source name -> its folder; one that is not there is not looked at.

    Raises:
        UserError: a folder without the tables of its reader, a table that cannot be read, a part whose media are still
            packed; with `fail` the bad records among those that were read; with `skip` a corpus without a good one.
    """
    looked = [one for one in sources if one["name"] in folders and folders[one["name"]].is_dir()]
    looked = [one for one in looked if one["reader"] in STREAMED or _is_small(folders[one["name"]])]
    # Where pyarrow is missing, the plan says so.
    looked = [one for one in looked if one["reader"] != "parquet" or pyarrow_installed()]
    items = list(distinct(_found(looked, folders)))
    problems = [one for one in items if isinstance(one, Problem)]
    if on_bad_record == "fail":
        refuse(problems, f"the first {len(items)} records")
    whole = len(looked) == len(sources) and len(items) < RECORDS
    if whole and len(problems) == len(items):
        raise no_records(len(problems))


def _found(
    sources: Sequence[Mapping[str, Any]], folders: Mapping[str, Path]
) -> Iterator[tuple[str, str, dict | Problem]]:
    for source in sources:
        folder, name = folders[source["name"]], source["name"]
        found = read_source(source, folder, folder, 0, (0.0, 0.0))
        most = RECORDS if source["reader"] in STREAMED else None
        yield from ((name, *one) for one in islice(found, most))


def _is_small(folder: Path) -> bool:
    """Whether reading its tables and finding its media takes no longer than a moment."""
    names = size = 0
    for where, _, files in os.walk(folder):
        names += len(files)
        size += sum(_size(os.path.join(where, name)) for name in files if name.endswith(TABLES))
        if names > FILES or size > BYTES:
            return False
    return True


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
