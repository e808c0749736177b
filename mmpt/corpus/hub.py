"""Data sets on the hub of Hugging Face: downloaded once, to the folder that a source names as its path.

The revision is looked up first. That commit is downloaded to a folder beside, NAME.COMMIT.partial, which is renamed
when all of it is there: an interrupted download goes on, and files of two commits are never mixed; what interrupted
downloads of other commits left is then deleted. While the hub cannot be reached, the library returns what an
interrupted download left; it is never taken for the data set.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpt.corpus.source_tables import TABLES
from mmpt.store.errors import UserError


def fetch_sources(sources: Iterable[Mapping[str, Any]]) -> list[str]:
    """Download those with key `hub` whose folder is not there; one line about each.

    Raises:
        UserError: the hub cannot be reached, has no such data set or revision, or it holds none of the reader's files.
    """
    return [_fetched(one) for one in sources if "hub" in one and not Path(one["path"]).exists()]


def _fetched(source: Mapping[str, Any]) -> str:
    from huggingface_hub import HfApi, snapshot_download

    name, folder = source["hub"], Path(source["path"])
    patterns = [source["file"], f"*/{source['file']}"] if "file" in source else list(TABLES[source["reader"]])
    try:
        commit = HfApi().repo_info(name, repo_type="dataset", revision=source.get("revision")).sha
        beside = folder.with_name(f"{folder.name}.{commit}.partial")
        snapshot_download(name, repo_type="dataset", revision=commit, allow_patterns=patterns, local_dir=beside)
    except Exception as error:  # of the library, of its HTTP client, of the disk
        raise UserError(
            "the data set cannot be downloaded",
            where=f"corpus source {source['name']}",
            found=f"{name} ({_first_line(error)})",
            expected="a data set that this machine can reach",
            fix=f"correct hub and revision, or copy its files to {folder}",
        ) from None
    shutil.rmtree(beside / ".cache", ignore_errors=True)  # the library's notes about the download
    if not any(path.is_file() for path in beside.rglob("*")):
        shutil.rmtree(beside)
        raise UserError(
            "the data set holds none of the reader's files",
            where=f"corpus source {source['name']}",
            found=f"{name} at {commit}",
            expected=" or ".join(patterns),
            fix="the hub converts most data sets: revision: refs/convert/parquet",
        )
    beside.rename(folder)
    for left in folder.parent.iterdir():  # interrupted downloads of other commits
        if re.fullmatch(rf"{re.escape(folder.name)}\.[0-9a-f]{{40}}\.partial", left.name):
            shutil.rmtree(left)
    return f"{name} at {commit} is in {folder}"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
