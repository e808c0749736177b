"""`mmpt init`: starts a project in a folder of the user's own, with a profile that fits the data it is shown."""

from __future__ import annotations

import argparse
import configparser
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from mmpt.build.commandline import user_path
from mmpt.corpus.source_tables import TABLES
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.resources import shared

LISTED = {".csv": "table", ".jsonl": "table", ".parquet": "parquet", ".arrow": "parquet", ".tar": "webdataset"}
"""Suffix of a file that --from names -> the reader of it."""
READERS = ("captions", "table", "parquet", "webdataset")
"""Readers whose files are looked for in a folder, in this order."""
ELSEWHERE = ("parquet", "webdataset")
"""Readers whose media are no files of their own."""
WORDS = {"audio": "sounds", "image": "pictures"}
COUNTED = 20_000
"""Records that are read at most."""
LOOKED_AT = 200
"""Sounds whose length is read, spread over the folder: enough for a quantile, quick on a network disk."""


def init(words: Sequence[str], settings: Mapping[str, Mapping[str, str]]) -> int:
    """Write dodo.py, doit.cfg, gates/ and run.yaml into a folder; prints what was assumed.

    Args:
        words: the command line after `mmpt init`.
        settings: doit's configuration, for doit.cfg.

    Raises:
        UserError: the folder is a project already, or there are no captions.
    """
    parser = argparse.ArgumentParser(prog="mmpt init", description="start a project: gates/, dodo.py and a profile")
    created = "created if it is not there; default: this one"
    parser.add_argument("folder", nargs="?", default=".", type=user_path, help=created)
    captioned = "a folder of captioned media (captions.jsonl, metadata.csv, parquet, arrow, tars), or one such file"
    parser.add_argument("--from", dest="data", type=user_path, help=captioned)
    options = parser.parse_args(list(words))
    folder = Path(options.folder).resolve()
    if (folder / "gates").exists() or (folder / "dodo.py").exists():
        raise UserError(
            "the folder is a project already", where=folder, found="gates/ or dodo.py", fix="run mmpt there"
        )
    profile, assumed = starter(Path(options.data).resolve(), folder) if options.data else (None, [])
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(shared("gates"), folder / "gates", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("waivers.yaml", "baselines.json"):
        atomic_write(folder / "gates" / name, EMPTY[name].encode())
    shutil.copyfile(shared("dodo.py"), folder / "dodo.py")
    atomic_write(folder / "doit.cfg", _config(settings).encode())
    if profile is not None:
        atomic_write(folder / "run.yaml", profile.encode())
    run = "mmpt profile=run.yaml" if profile is not None else "mmpt"
    where = "" if folder == Path.cwd() else f"cd {os.path.relpath(folder)} && "
    print("\n".join([*assumed, f"project in {folder}; next: {where}{run}"]))
    return EXIT_GO


EMPTY = {"waivers.yaml": "version: 1\nwaivers: []\n", "baselines.json": '{\n "profiles": {},\n "version": 1\n}\n'}


def _config(settings: Mapping[str, Mapping[str, str]]) -> str:
    config = configparser.ConfigParser()
    config.read_dict(settings)
    text = io.StringIO()
    config.write(text)
    return text.getvalue()


def starter(data: Path, folder: Path) -> tuple[str, list[str]]:
    """A profile for a captioned data set, and what it assumes, one line each.

    Args:
        data: a folder that reader captions, table, parquet or webdataset reads, or one such file.
        folder: where the profile will lie; its path to the data is relative to it.

    Raises:
        UserError: nothing that a reader reads, or no usable record.
    """
    root, source = _source(data)
    counts, sounds, bad = _look(root, source)
    codecs: dict[str, Any] = {kind: None for kind in WORDS if not counts[kind]}
    n = sum(counts.values())
    found = " and ".join(f"{counts[kind]} {WORDS[kind]}" for kind in WORDS)
    assumed = [f"found {found} in {data}" + (", and stopped to count there" if n + len(bad) >= COUNTED else "")]
    assumed += [f"corpus.sources: reader {source['reader']}"]
    if bad:
        assumed.append(f"{len(bad)} bad records: a run stops at them; corpus.on_bad_record: skip leaves them out")
        assumed.append(f"    the first: {bad[0]}")
    if sounds:
        seconds, codecs["audio"] = _clip(sounds)
        clip = codecs["audio"]["clip_seconds"]
        assumed.append(f"codecs.audio.clip_seconds {clip}: nine in ten sounds are at most {seconds:.1f} s long")
    elif counts["audio"]:
        assumed.append("codecs.audio.clip_seconds is that of profile captions: the sounds' lengths were not read")
    assumed += [f"no {WORDS[kind]}: codecs.{kind} is null" for kind in WORDS if not counts[kind]]
    profile: dict[str, Any] = {
        "extends": "captions",
        "name": "".join(c if c.isalnum() or c in "._-" else "-" for c in data.stem.lower()).strip("-._") or "run",
        "corpus": {"sources": [{**source, "path": os.path.relpath(root, folder)}]},
        **({"codecs": codecs} if codecs else {}),
    }
    assumed += [
        f"{counts[kind]} {WORDS[kind]}: gates that judge 256 test items need about 1,500 (split.test 0.18); "
        "with fewer, expect CANNOT_DECIDE"
        for kind in WORDS
        if 0 < counts[kind] < 1500
    ]
    head = "# Written by `mmpt init`. `doit help profile KEY` explains a key, `doit profile` shows all values.\n"
    return head + yaml.safe_dump(profile, sort_keys=False), assumed


def _source(data: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of a data set, and its source section without the path."""
    if data.is_file():
        if data.suffix not in LISTED:
            raise UserError("no reader reads this file", where=data, expected=" or ".join(LISTED))
        if data.name not in TABLES["captions"]:
            return data.parent, {"name": "data", "reader": LISTED[data.suffix], "file": data.name}
        data = data.parent
    for reader in READERS:
        if any(next(data.glob(f"{'' if reader == 'captions' else '**/'}{name}"), None) for name in TABLES[reader]):
            return data, {"name": "data", "reader": reader}
    raise UserError(
        "no captions",
        where=data,
        expected=", ".join(name for reader in READERS for name in TABLES[reader]),
        fix="name a table of your own by its file: --from FOLDER/FILE.csv; see mmpt/corpus/README.md",
    )


def _look(root: Path, source: Mapping[str, Any]) -> tuple[Counter[str], list[Path], list[str]]:
    """Records by modality, the sounds that are files, and the bad records; of the first COUNTED ones."""
    from mmpt.corpus.problems import Problem
    from mmpt.corpus.readers import read_source

    counts: Counter[str] = Counter()
    sounds, bad = [], []
    for _, one in islice(read_source(source, root, root, 0, (0.0, 0.0)), COUNTED):
        if isinstance(one, Problem):
            bad.append(str(one))
            continue
        counts[one["modality"]] += 1
        if one["modality"] == "audio" and source["reader"] not in ELSEWHERE:
            sounds.append(root / one["media"]["path"])
    if not counts:
        raise UserError("no usable record", where=root, found=bad[0] if bad else "nothing")
    return counts, sounds, bad


def _clip(sounds: Sequence[Path]) -> tuple[float, dict[str, Any]]:
    """The 90 % quantile of the lengths in seconds, and the codec section: a clip of that length, at most 10 s."""
    import soundfile

    step = max(1, len(sounds) // LOOKED_AT)
    lengths = []
    for path in sounds[::step]:
        try:
            lengths.append(soundfile.info(path).duration)
        except RuntimeError:  # stage manifest reports it as a bad record
            continue
    if not lengths:
        return 0.0, {"clip_seconds": 1.0}
    ninety = sorted(lengths)[min(len(lengths) - 1, int(0.9 * len(lengths)))]
    return ninety, {"clip_seconds": float(min(10.0, max(1.0, round(ninety, 1))))}
