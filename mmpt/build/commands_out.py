"""Commands around a run: `doit export`, the way out of one, and `doit fit`, the look before one."""

from __future__ import annotations

import argparse
import importlib
import shutil
from pathlib import Path

from mmpt.build.commandline import OurCommand, Parser
from mmpt.build.commands import held
from mmpt.build.conclusion import print_gates, stale_measurements
from mmpt.build.fit_lines import fit_lines
from mmpt.build.model_card import card
from mmpt.build.project import Project
from mmpt.build.staleness import reasons, told
from mmpt.build.tasks import policy_of
from mmpt.gating import Verdict, evaluate_all
from mmpt.gating.decision import EXIT
from mmpt.gating.decision import conclude as decision_word
from mmpt.store.atomic import atomic_write, publish_folder
from mmpt.store.canonical import canonical_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import EXIT_CANNOT_DECIDE, EXIT_GO, UserError
from mmpt.store.schema import validate


class Export(OurCommand):
    name = "export"
    doc_purpose = "the released model as a folder for transformers, PEFT and vLLM; only on GO"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--to", required=True, metavar="DIR", help="new or empty folder")
        parser.add_argument(
            "--dtype", choices=("float32", "bfloat16"), help="of the merged weights; default: the run's"
        )
        parser.add_argument("--strict", action="store_true", help="ignore waivers")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        target = Path(options.to)
        refuse_occupied(target)
        with held(project):
            verdicts, code = _released(project, options.strict)
            if code == EXIT_GO:
                _write(project, verdicts, target, options.dtype)
            project.save_caches()
        return code


def refuse_occupied(target: Path) -> None:
    """Raise UserError unless `target` is absent or an empty folder."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(
            "there is something already", where=f"--to {target}", expected="a new or empty folder"
        )


def _released(project: Project, strict: bool) -> tuple[list[Verdict], int]:
    """All verdicts, decided now, and the exit code: 0 only on a GO that rests on what is built.

    Raises:
        UserError: GO, but its release was not built.
    """
    verdicts = evaluate_all(project.root, policy_of(project, strict), write=False)
    word = decision_word(verdicts)
    if word != "GO":
        print_gates(one for one in verdicts if not one.good)
        print(f"{word}: nothing exported")
        return verdicts, EXIT[word]
    if old := stale_measurements(project):
        print("\n".join(f"stale: {name}: {why}" for name, why in old.items()))
        print("CANNOT-DECIDE: nothing exported; `doit` measures again")
        return verdicts, EXIT_CANNOT_DECIDE
    if why := reasons(project, project.stage("release")):
        raise UserError(
            "the release is not built", where=project.root.name, found=told(why), fix="run doit first"
        )
    return verdicts, EXIT_GO


def _write(project: Project, verdicts: list[Verdict], target: Path, dtype: str | None) -> None:
    staging = target.absolute().with_name(f".{target.absolute().name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        written = importlib.import_module("mmpt.evaluate.exporting").export(
            project.root, project.profile, staging, dtype
        )
        atomic_write(staging / "README.md", card(project, verdicts, written).encode())
        atomic_write(staging / "MANIFEST.sha256", str(Manifest.of(staging)).encode())
        publish_folder(staging, target.absolute())
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    parity = written["parity"]
    print(
        f"read back by transformers: logits differ by {parity['difference']:.2g} of the largest, "
        f"same choice at {parity['same_choice']:.2%} of {parity['positions']} positions"
    )
    print(target)


class Fit(OurCommand):
    name = "fit"
    doc_purpose = "lengths, drop rates, memory and time before training; proposes settings"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--gpu", help="size it for this GPU instead of this machine, e.g. h100")
        parser.add_argument("--memory-gib", type=float, help="memory of the device")
        parser.add_argument("--tflops", type=float, help="sustained TFLOP/s of the device")
        parser.add_argument(
            "--measure",
            type=int,
            default=0,
            metavar="STEPS",
            help="train a few steps on random ids and compare",
        )
        parser.add_argument("--json", action="store_true", help="print the report as JSON")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        fit = importlib.import_module("mmpt.train.fit")
        device = fit.device_of(project.profile, options.gpu, options.memory_gib, options.tflops)
        report = fit.fit(project.root, project.profile, device, options.measure)
        validate(report, "fit", where="doit fit")
        print(canonical_json(report).decode() if options.json else "\n".join(fit_lines(report)))
        return EXIT_GO
