"""`doit sign`: a signature over the release, its evidence and its verdicts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmpt.build import signature
from mmpt.build.commandline import OurCommand, Parser, held, user_path
from mmpt.build.decision_summary import look
from mmpt.build.project import Project
from mmpt.build.staleness import reasons, told
from mmpt.store.errors import EXIT_GO, UserError

PASSWORD = "MMPT_KEY_PASSWORD"


class Sign(OurCommand):
    name = "sign"
    doc_purpose = "sign the release with its evidence and verdicts; only on GO; `doit verify --signature` checks it"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--key",
            type=user_path,
            required=True,
            metavar="PEM",
            help=f"elliptic private key; its password, if it has one, in {PASSWORD}",
        )
        parser.add_argument("--strict", action="store_true", help="ignore waivers and refuse softenings")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            found = look(project, strict=options.strict)
            self.result = found.to_json() | {"signed": 0}
            if found.exit_code != EXIT_GO:
                self.say(*found.lines()[:-1], f"{found.lines()[-1]}: nothing signed")
                return found.exit_code
            if why := [one for stage in project.granted for one in reasons(project, stage)]:
                raise UserError(
                    "the release is not built", where=project.root.name, found=told(why), fix="run doit first"
                )
            count = signature.sign(project.root, Path(options.key), os.environ.get(PASSWORD))
            self.result["signed"] = count
            self.say(f"{count} files signed: {(project.root / signature.FILE).relative_to(project.repo)}")
        return EXIT_GO
