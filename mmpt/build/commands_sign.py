"""`doit sign`: a signature over the release, its evidence and its verdicts."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mmpt.build import signature
from mmpt.build.commandline import Parser, user_path
from mmpt.build.commands_out import ReleaseCommand, require_release
from mmpt.build.decision_summary import DecisionSummary
from mmpt.build.project import Project

PASSWORD = "MMPT_KEY_PASSWORD"


class Sign(ReleaseCommand):
    name = "sign"
    doc_purpose = "sign the release with its evidence and verdicts; only on GO; `doit verify --signature` checks it"
    done = "signed"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument(
            "--key",
            type=user_path,
            required=True,
            metavar="PEM",
            help=f"elliptic private key; its password, if it has one, in {PASSWORD}",
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        code = super().main(project, options, words)
        self.result.setdefault("signed", 0)
        return code

    def on_go(self, project: Project, found: DecisionSummary, options: argparse.Namespace, words: list[str]) -> None:
        require_release(project)
        count = signature.sign(project.root, Path(options.key), os.environ.get(PASSWORD))
        self.result["signed"] = count
        self.say(f"{count} files signed: {(project.root / signature.FILE).relative_to(project.repo)}")
