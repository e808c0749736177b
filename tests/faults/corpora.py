"""Makes what a run reads: `python -m tests.faults.corpora captions|imported FOLDER`.

captions  the media of the generated corpus as files beside captions.jsonl, with their splits and without attributes
imported  a small run in the upstream formats, and brought.yaml, a profile over it
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import yaml

from mmpt.corpus.readers import read_source
from mmpt.profile import load_profile
from tests.shards.upstream_run import build_run, write_checkpoints

KEPT = ("id", "caption", "source", "origin", "license")


def captions(folder: Path) -> None:
    """The generated corpus of profile smoke as a folder for the reader `captions`."""
    smoke = load_profile("smoke").data
    (source,) = smoke["corpus"]["sources"]
    shares = (smoke["split"]["val"], smoke["split"]["test"])
    with (folder / "captions.jsonl").open("w", encoding="utf-8") as lines:
        for _, record in read_source(source, None, folder, smoke["seed"], shares):
            row = {**{key: record[key] for key in KEPT}, "split": record["split_hint"]}
            lines.write(json.dumps({**row, record["modality"]: record["media"]["path"]}) + "\n")


def imported(folder: Path) -> None:
    """A run to import, and its profile."""
    run = build_run(folder, 60, 60)
    write_checkpoints(run)
    run.root = Path()  # a profile's paths are taken from its own folder
    (folder / "brought.yaml").write_text(yaml.safe_dump(run.profile(name="brought")), encoding="utf-8")


MAKERS = {"captions": captions, "imported": imported}


def main(name: str, folder: Path) -> None:
    """Make a corpus anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    MAKERS[name](folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
