"""`doit export`, the released model as a folder, and `doit fit`, sizes and settings before a run."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmpt.build.commandline import OurCommand, Parser, above_zero, computing, held, user_path, whole_number
from mmpt.build.decision_summary import DecisionSummary, look
from mmpt.build.fit_lines import fit_lines
from mmpt.build.model_card import card
from mmpt.build.project import Project
from mmpt.build.staleness import reasons, told
from mmpt.gating import Verdict
from mmpt.gating.judged import release_problems, stated_release
from mmpt.profile.writing import new_profile, write_profile
from mmpt.store.atomic import atomic_write, publish_folder
from mmpt.store.canonical import read_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import EXIT_GO, UserError
from mmpt.store.new_folder import new_folder, staging_folder


class ReleaseCommand(OurCommand):
    """A command that gives the release away: only on GO, with the decision as its exit code."""

    done = ""
    """What happens on GO, as in "nothing exported"."""

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--strict", action="store_true", help="ignore waivers and refuse softenings")
        return parser

    def on_go(self, project: Project, found: DecisionSummary, options: argparse.Namespace, words: list[str]) -> None:
        """Do it; the decision is GO, and the lock is held."""
        raise NotImplementedError

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            found = look(project, strict=options.strict)
            self.result = found.to_json()
            if found.exit_code == EXIT_GO:
                self.on_go(project, found, options, words)
            else:
                self.say(*found.lines()[:-1], f"{found.lines()[-1]}: nothing {self.done}")
            project.save_caches()
        return found.exit_code


def require_release(project: Project) -> None:
    """Refuse where the release is not built, or not from what is there now."""
    if why := [one for stage in project.granted for one in reasons(project, stage)]:
        raise UserError("the release is not built", where=project.root.name, found=told(why), fix="run doit first")


class Export(ReleaseCommand):
    name = "export"
    doc_purpose = "the released model as a folder for transformers, PEFT and vLLM; only on GO"
    done = "exported"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--to", type=user_path, required=True, metavar="DIR", help="new or empty folder")
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), help="of the merged weights: the one that gate X1 judged"
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        new_folder(options.to, "--to", project.root)  # before anything else
        return super().main(project, options, words)

    def on_go(self, project: Project, found: DecisionSummary, options: argparse.Namespace, words: list[str]) -> None:
        self._write(project, found, new_folder(options.to, "--to", project.root), options.dtype)

    def _write(self, project: Project, found: DecisionSummary, target: Path, dtype: str | None) -> None:
        require_release(project)
        parity = write_export(project, found.verdicts, target, dtype)
        self.result |= {"to": str(target), "parity": parity}
        self.say(
            f"read back by transformers: logits differ by {parity['difference']:.2g} of the largest, "
            f"same choice at {parity['same_choice']:.2%} of {parity['positions']} positions",
            str(target),
        )


def write_export(project: Project, verdicts: Sequence[Verdict], target: Path, dtype: str | None) -> dict[str, Any]:
    """Copy the staged export beside its place and move it there, whole; returns how the written model compares.

    Raises:
        UserError: weights of another dtype than those that were judged; a release that is not what was judged.
    """
    staged = project.root / "staged_export" / "data"
    written = read_json(staged / "export.json")
    if dtype not in (None, written["dtype"]):
        raise UserError(
            "these weights were not judged",
            where=f"--dtype {dtype}",
            found=f"gate X1 judged {written['dtype']}",
            fix=f"set export.dtype: {dtype} in the profile and run doit",
        )
    if problems := release_problems(project.root):
        raise UserError("the release is not what was judged", where=project.root.name, found=problems[0])
    written["release"] = stated_release(project.root)
    staging = staging_folder(target)
    shutil.rmtree(staging, ignore_errors=True)
    try:
        shutil.copytree(staged / "export", staging)
        if Manifest.of(staging).digest != written["release"]["export_manifest_sha256"]:
            raise UserError("the copy is not the staged export", where=staging, fix="look for a faulty disk")
        atomic_write(staging / "README.md", card(project, verdicts, written).encode())
        atomic_write(staging / "MANIFEST.sha256", str(Manifest.of(staging)).encode())
        publish_folder(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return written["parity"]


class Fit(OurCommand):
    name = "fit"
    doc_purpose = "lengths, drop rates, memory and time before training; proposes settings"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--gpu", help="size it for this GPU instead of this machine, e.g. h100")
        parser.add_argument("--memory-gib", type=above_zero, help="memory of the device")
        parser.add_argument("--tflops", type=above_zero, help="sustained TFLOP/s of the device")
        parser.add_argument("--gpus", type=whole_number, help="number of ranks, one per GPU, instead of the launcher's")
        parser.add_argument("--max-seq-len", type=whole_number, metavar="TOKENS", help="keep this length of an example")
        parser.add_argument("--clip-seconds", type=above_zero, metavar="S", help="keep this length of a sound")
        parser.add_argument("--codebooks", type=whole_number, metavar="K", help="number of audio codebooks to keep")
        parser.add_argument(
            "--frames", type=whole_number, metavar="N", help="the clip as codec frames instead of seconds"
        )
        parser.add_argument(
            "--write", type=user_path, metavar="FILE.yaml", help="write the first proposal as a whole profile"
        )
        parser.add_argument(
            "--measure",
            type=whole_number,
            default=0,
            metavar="STEPS",
            help="train a few steps on random ids and compare",
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        fit, fitting = computing(project, "mmpt.train.fit"), computing(project, "mmpt.evaluate.fitting")
        device = fit.device_of(project.profile, options.gpu, options.memory_gib, options.tflops, options.gpus)
        given = fitting.given_of(
            project.root,
            project.profile,
            max_seq_len=options.max_seq_len,
            seconds=options.clip_seconds,
            n_codebooks=options.codebooks,
            frames=options.frames,
        )
        target = None if options.write is None else new_profile(Path(options.write))
        on_stage = counting_note if not self.json and sys.stderr.isatty() else (lambda name: None)
        self.result = fitting.fit_report(project.root, project.profile, device, options.measure, given, on_stage)
        lines = list(fit_lines(self.result))
        if target is not None:
            chosen = fitting.chosen_profile(project.profile, self.result, given)
            written = write_profile(target, chosen, [f"Written by `{_as_typed(project, options)}`:", "", *lines])
            self.result["written"] = str(written.path)
            lines += ["", f"written {target}: doit plan profile={target}"]
        self.say(*lines)
        return EXIT_GO


def _as_typed(project: Project, options: argparse.Namespace) -> str:
    given = {name: value for name, value in vars(options).items() if value and name not in ("words", "json")}
    flags = [f"--{name.replace('_', '-')} {value}" for name, value in given.items()]
    return " ".join(["doit fit", f"profile={project.profile.name}", *flags])


def counting_note(stage: str) -> None:
    """Say on a terminal what takes the time."""
    print(f"\rcounting {stage:<20}", end="\r", file=sys.stderr, flush=True)
