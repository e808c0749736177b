"""Which files of a source's folder its reader reads as tables: known without importing the readers.

What a reader makes of a folder follows from these tables and from which files there are; where it also looks at how
long a file is, from the files' sizes too.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

TABLES: dict[str, tuple[str, ...]] = {
    "captions": ("captions.jsonl", "captions.csv"),
    "webdataset": ("*.tar",),
    "parquet": ("*.parquet", "*.arrow"),
    "table": ("metadata.csv", "metadata.jsonl"),
    "clotho": ("clotho_captions_*.csv", "clotho_metadata_*.csv"),
    "audiocaps": ("train.csv", "val.csv", "test.csv"),
    "wavcaps": ("as_final.json", "fsd_final.json", "bbc_final.json", "sb_final.json", "blacklist_exclude_test_ac.json"),
    "musiccaps": ("musiccaps-public.csv",),
    "llava_pretrain": ("blip_laion_cc_sbu_558k.json",),
}
"""Reader -> patterns of file names. Key `file` of a source names one more."""
MEASURES = ("audiocaps", "musiccaps")
"""Readers that look at how long a clip's file is: a whole video in its place has another size."""


def tables(source: Mapping[str, Any]) -> tuple[str, ...]:
    """Patterns of the names of a source's tables; () where nothing is known of its reader."""
    known = TABLES.get(source.get("reader", ""), ())
    return (*known, *([source["file"]] if known and "file" in source else ()))


def is_table(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a relative path's file name is one of the patterns."""
    name = PurePosixPath(path).name
    return any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
