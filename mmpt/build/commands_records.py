"""`doit records`: which records were left out, cut or shortened, and why; or everything about one record."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from mmpt.build.commandline import OurCommand, Parser
from mmpt.build.fingerprint import manifest_digest
from mmpt.build.project import Project
from mmpt.build.receipts import RECEIPT, definition_of, read_receipt
from mmpt.gating.columns import columns
from mmpt.store.errors import EXIT_GO
from mmpt.store.plain_text import plain_line

SHOWN = 20  # records of a list without --all


class Records(OurCommand):
    name = "records"
    doc_purpose = "which records were left out, cut or shortened, and why; with --id all that is known of one"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--id", help="one record: its split, tokens, tasks, and what the model made of it")
        parser.add_argument("--all", action="store_true", help=f"all of a list, not the first {SHOWN}")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        records = importlib.import_module("mmpt.evaluate.records").Records(project.root, *_built_with(project))
        if options.id is not None:
            self.result = records.story(options.id)
            self.say(*map(plain_line, story_lines(self.result)))
        else:
            self.result = records.overview()
            self.say(*map(plain_line, overview_lines(self.result, None if options.all else SHOWN)))
        return EXIT_GO


def _built_with(project: Project) -> tuple[int, int | None, bool]:
    """max_seq_len and max_prompt_tokens of the examples that are there, and whether shards or token space are others by
    now; the profile's where there are no examples.
    """
    path, section, stale = project.root / "examples" / RECEIPT, project.profile.data["examples"], False
    if path.is_file():
        definition = definition_of(read_receipt(path))
        section = definition["slice"]["examples"]
        inputs = definition["inputs"]
        stale = any(inputs[name] != manifest_digest(project, name) for name in ("shards", "token_space"))
    return section["max_seq_len"], section.get("max_prompt_tokens"), stale


def overview_lines(found: Mapping[str, Any], most: int | None) -> list[str]:
    """Counts first, then each list."""
    sides = ", ".join(f"{n} {side}" for side, n in found["sides"].items())
    lines = [f"{found['read']} records ({sides}), {len(found['lost'])} left out, {len(found['cut'])} cut"]
    lines += [f"{n} {kind} records are not used: no codecs.{kind}" for kind, n in found["unused"].items()]
    if found["stale"]:
        lines.append("the examples are of other shards or another token space: `doit examples` makes them again")
    rows = [
        [task, str(one["kept"]), str(len(one["dropped"])), str(len(one["shortened"]))]
        for task, one in found["tasks"].items()
    ]
    if rows:
        lines += columns(rows, head=("task", "kept", "dropped", "prompts shortened"), right={1, 2, 3})
    lost = [[one["stage"], one["id"] or one["where"], one["why"]] for one in found["lost"]]
    cut = [[one["split"], one["id"], one["why"]] for one in found["cut"]]
    lines += _listed("left out", lost, most) + _listed("cut", cut, most)
    for task, one in found["tasks"].items():
        for kind in ("dropped", "shortened"):
            rows = [[row["split"], row["id"], row["why"]] for row in one[kind]]
            lines += _listed(f"{task}: {kind}", rows, most)
    return lines


def _listed(title: str, rows: Sequence[Sequence[str]], most: int | None) -> list[str]:
    if not rows:
        return []
    more = [] if most is None or len(rows) <= most else [f"  and {len(rows) - most} more: --all"]
    return ["", f"{title} ({len(rows)})", *columns(rows[:most], indent="  "), *more]


def story_lines(story: Mapping[str, Any]) -> list[str]:
    """One thing a line; ids at the end, they are long."""
    rows = [["left out", f"{one['stage']}: {one['where']}: {one['why']}"] for one in story["lost"]]
    record, tokens = story["record"], story["tokens"]
    if record is not None:
        medium = record["media"] or {}
        rows += [
            ["caption", record["caption"]],
            ["medium", _place(medium)],
            ["source", f"{record['source']}, licence {record['license']}"],
        ]
    rows += [["split", story["split"]]] if story["split"] else []
    if tokens is not None:
        rows += [["shard", f"{tokens['shard']}, record {tokens['row']} of its split, {len(tokens['ids'])} tokens"]]
        rows += [["cut", tokens["cut"]]] if tokens["cut"] else []
    rows += [[task, said] for task, said in story["tasks"].items()]
    for one in story["outputs"]:
        made = one["path"] or repr(one["text"])
        fault = f"  ({one['fault']})" if one["fault"] else ""
        rows.append([f"step {one['step']}", f"{one['task']} {one['decoding']}: {made}{fault}"])
    rows += [["tokens", " ".join(map(str, tokens["ids"]))]] if tokens is not None else []
    return [story["id"], *columns(rows, indent="  ")]


def _place(medium: Mapping[str, Any]) -> str:
    place = "/".join(str(medium[key]) for key in ("root", "path", "member") if key in medium) or "not there"
    place += f"[{medium['row']}]" if "row" in medium else ""
    if "offset" in medium:
        length = f" for {medium['duration']:.10g} s" if "duration" in medium else " on"
        place += f", from {medium['offset']:.10g} s{length}"
    return place
