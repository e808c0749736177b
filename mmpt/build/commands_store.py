"""`doit store`: lists the results that profiles share; --prune deletes those that no run holds."""

from __future__ import annotations

import argparse

from mmpt.build.commandline import OurCommand, Parser
from mmpt.build.display import NAME_WIDTH
from mmpt.build.policy import profile_file
from mmpt.build.project import Project
from mmpt.build.sharing import Entry, entries, remove, size_text, store_of, unused
from mmpt.store.errors import EXIT_GO, UserError

UNUSED_DAYS = 30  # default of --days


class Store(OurCommand):
    name = "store"
    doc_purpose = "the results that profile key `store` shares; --prune removes those that no run uses"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--prune", action="store_true", help="remove the results that no run holds or took lately")
        parser.add_argument(
            "--days", type=_days, default=UNUSED_DAYS, help=f"lately: within this number of days; default {UNUSED_DAYS}"
        )
        parser.add_argument(
            "-n", "--dry-run", action="store_true", help="with --prune: say what would go, and remove nothing"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        store = store_of(project)
        if store is None:
            raise UserError(
                "the profile names no store", where=f"{profile_file(project)}: store", expected="store: FOLDER"
            )
        found = entries(store)
        doomed = unused(found, options.days) if options.prune else []
        if doomed and not options.dry_run:
            remove(store, [one.path for one in doomed])
        shown = doomed if options.prune else found
        self.say(*map(_line, shown), _summary(shown, options))
        self.result = {
            "store": str(store),
            "entries": [_json(one) for one in found],
            "pruned": [str(one.path) for one in doomed],
            "dry_run": options.dry_run,
        }
        return EXIT_GO


def _days(text: str) -> float:
    days = float(text) if text.replace(".", "", 1).isdecimal() else -1.0
    if days < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected a number of days from 0 up")
    return days


def _line(one: Entry) -> str:
    use = f"held by {'a' if one.held else 'no'} run, used {one.days:.1f} days ago"
    return f"{one.stage:<{NAME_WIDTH}} {one.path.name[:12]} {size_text(one.bytes):>12}  {use}"


def _summary(shown: list[Entry], options: argparse.Namespace) -> str:
    total = f"{len(shown)} results, {size_text(sum(one.bytes for one in shown))}"
    if not options.prune:
        return total
    return f"{total} {'would be removed' if options.dry_run else 'removed'}"


def _json(one: Entry) -> dict[str, object]:
    return {
        "stage": one.stage,
        "fingerprint": one.path.name,
        "bytes": one.bytes,
        "held": one.held,
        "days": round(one.days, 3),
    }
