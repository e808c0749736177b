"""`mmpt init`: starts a project in a folder of the user's own, with a profile that fits the data it is shown."""

from __future__ import annotations

import argparse
import configparser
import io
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from mmpt.build.commandline import user_path
from mmpt.store.atomic import atomic_write
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.resources import shared

SUFFIXES = {
    "audio": {".wav", ".flac", ".ogg", ".mp3", ".opus", ".aiff", ".aif"},
    "image": {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"},
}
LOOKED_AT = 200
"""Sounds whose length is read, spread over the folder: enough for a quantile, quick on a network disk."""


def init(words: Sequence[str], settings: Mapping[str, Mapping[str, str]]) -> int:
    """Write dodo.py, doit.cfg, gates/ and run.yaml into a folder; prints what was assumed.

    Args:
        words: the command line after `mmpt init`.
        settings: doit's configuration, for doit.cfg.

    Raises:
        UserError: the folder is a project already, or the data folder holds no captions.
    """
    parser = argparse.ArgumentParser(prog="mmpt init", description="start a project: gates/, dodo.py and a profile")
    created = "created if it is not there; default: this one"
    parser.add_argument("folder", nargs="?", default=".", type=user_path, help=created)
    captioned = "a folder with captions.jsonl or captions.csv and its media"
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
    """A profile for the records of a captioned folder, and what it assumes, one line each.

    Args:
        data: the folder with captions.jsonl or captions.csv.
        folder: where the profile will lie; its path to the data is relative to it.

    Raises:
        UserError: no captions file, or none of its records names a medium.
    """
    names = ("captions.jsonl", "captions.csv")
    if not any((data / name).is_file() for name in names):
        raise UserError("no captions file", where=data, expected=" or ".join(names), fix="see mmpt/corpus/README.md")
    media = {
        kind: sorted(path for path in data.rglob("*") if path.suffix.lower() in suffixes)
        for kind, suffixes in SUFFIXES.items()
    }
    if not any(media.values()):
        raise UserError("no pictures and no sounds", where=data, expected="files such as .png, .jpg, .wav, .flac")
    codecs: dict[str, Any] = {kind: None for kind, files in media.items() if not files}
    assumed = [f"{len(files)} {'sounds' if kind == 'audio' else 'pictures'}" for kind, files in media.items()]
    assumed = [f"found {' and '.join(assumed)} below {data}"]
    if media["audio"]:
        seconds, codecs["audio"] = _clip(media["audio"])
        clip = codecs["audio"]["clip_seconds"]
        assumed.append(f"codecs.audio.clip_seconds {clip}: nine in ten sounds are at most {seconds:.1f} s long")
    assumed += [
        f"no {'sounds' if kind == 'audio' else 'pictures'}: codecs.{kind} is null"
        for kind, files in media.items()
        if not files
    ]
    profile: dict[str, Any] = {
        "extends": "captions",
        "name": "".join(c if c.isalnum() or c in "._-" else "-" for c in data.name.lower()).strip("-._") or "run",
        "corpus": {"sources": [{"name": "data", "reader": "captions", "path": os.path.relpath(data, folder)}]},
        **({"codecs": codecs} if codecs else {}),
    }
    for kind, files in media.items():
        n = len(files)
        if 0 < n < 1500:
            assumed.append(
                f"{n} {'sounds' if kind == 'audio' else 'pictures'}: gates that judge 256 test items need about 1,500 "
                "(split.test 0.18); with fewer, expect CANNOT_DECIDE"
            )
    head = "# Written by `mmpt init`. `doit help profile KEY` explains a key, `doit profile` shows all values.\n"
    return head + yaml.safe_dump(profile, sort_keys=False), assumed


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
