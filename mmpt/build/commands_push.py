"""`doit push`: the released model to the hub of Hugging Face, as `doit export` writes it; only on GO."""

from __future__ import annotations

import argparse
import os
import re
import shutil
from pathlib import Path
from typing import Any

from mmpt.build.commandline import Parser
from mmpt.build.commands_out import ReleaseCommand, require_release, write_export
from mmpt.build.decision_summary import DecisionSummary
from mmpt.build.project import Project
from mmpt.store.errors import UserError

REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Push(ReleaseCommand):
    name = "push"
    doc_purpose = "the released model with its card to a repository on the hub of Hugging Face; only on GO"
    done = "pushed"
    takes = (1, 1)
    words_doc = "OWNER/NAME"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--private", action="store_true", help="a repository that is made now is private")
        parser.add_argument("-n", "--dry-run", action="store_true", help="say what would be sent, and send nothing")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        (repo,) = words
        if not REPO.fullmatch(repo):
            raise UserError("no name of a repository", where="doit push", found=repo, expected="OWNER/NAME")
        return super().main(project, options, words)

    def on_go(self, project: Project, found: DecisionSummary, options: argparse.Namespace, words: list[str]) -> None:
        (repo,) = words
        require_release(project)
        folder = project.staging / "push"
        shutil.rmtree(folder, ignore_errors=True)  # of a push that was killed
        try:
            write_export(project, found.verdicts, folder, None)
            files = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
            self.result |= {"repository": repo, "files": len(files), "bytes": sum(files.values()), "url": None}
            if options.dry_run:
                self.say(*(f"{path.relative_to(folder)}  {size:,} bytes" for path, size in files.items()))
                self.say(f"would push {len(files)} files, {sum(files.values()):,} bytes, to {repo}")
                return
            self.result["url"] = upload(folder, repo, private=options.private, message=found.lines()[-1])
            self.say(f"pushed {len(files)} files, {sum(files.values()):,} bytes", str(self.result["url"]))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def upload(folder: Path, repo: str, *, private: bool, message: str) -> str:
    """Make the repository where there is none, and commit the folder as its whole content; the commit's address.

    Files of an earlier push that are not in the folder are deleted in the same commit: what is there was judged.

    Raises:
        UserError: the hub cannot be reached, or this machine may not write there.
    """
    from huggingface_hub import HfApi

    try:
        hub: Any = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        hub.create_repo(repo, private=private, exist_ok=True)
        done = hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, delete_patterns="*")
    except Exception as error:  # of the library, of its HTTP client
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(
            "the model cannot be pushed",
            where=repo,
            found=" ".join(lines[:2])[:200] or type(error).__name__,
            expected="a hub that this machine can reach and may write to",
            fix="`hf auth login` or HF_TOKEN with a token that may write; HF_ENDPOINT names another hub",
        ) from None
    return str(done.commit_url)
