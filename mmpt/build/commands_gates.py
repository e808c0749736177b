"""The commands of `doit` about gates: gates, decide, waive, accept, diff and history."""

from __future__ import annotations

import argparse
import datetime
import getpass
from collections.abc import Iterable
from typing import Any

from mmpt.build.commandline import OurCommand, Parser, held, load, whole_number
from mmpt.build.comparison import compare, find_side
from mmpt.build.decision_summary import conclude, look
from mmpt.build.diff_view import diff_lines
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.run_plan import run_plan
from mmpt.gating import Accepted, Verdict, accept, evaluate_gate, read_accepted, read_history, waive
from mmpt.gating.baselines import baseline_checks, baseline_values
from mmpt.gating.columns import columns, width, wrapped
from mmpt.gating.history import append_change, one_writer
from mmpt.gating.text import number
from mmpt.gating.verdicts import evidence_path
from mmpt.gating.waivers import check_reason
from mmpt.store.canonical import digest_json
from mmpt.store.errors import EXIT_BROKE, EXIT_GO, UserError
from mmpt.store.evidence import read_evidence

NEXT = "`doit decide` decides with it"


class Gates(OurCommand):
    name = "gates"
    doc_purpose = "one line per gate: value against bound; writes nothing"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--strict", action="store_true", help="ignore waivers")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        found = look(project, strict=options.strict)
        self.say(*found.lines())
        self.result = found.to_json()
        project.save_caches()
        return found.exit_code


class Decide(OurCommand):
    name = "decide"
    doc_purpose = "decide every gate again, write decision.json and the report"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--strict", action="store_true", help="ignore waivers")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        with held(project):
            found = conclude(project, strict=options.strict)
            project.save_caches()
        self.say(*found.lines())
        self.result = found.to_json()
        return found.exit_code


class Waive(OurCommand):
    name = "waive"
    doc_purpose = "answer for a gate's failed checks on this very artifact, until a day"
    words_doc = "GATE"
    takes = (1, 1)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--check", metavar="ID", help="only this check; default: all that failed")
        parser.add_argument("--reason", required=True, help="why the failure is acceptable")
        parser.add_argument("--owner", default=getpass.getuser(), help="who answers for it; default: you")
        parser.add_argument("--expires", required=True, metavar="YYYY-MM-DD", help="last day on which it holds")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        policy = policy_of(project)
        _check_person(project, options.reason)
        if _day(options.expires) < policy.today:
            raise UserError(
                "that day is over",
                where="--expires",
                found=options.expires,
                expected=f"{policy.today} or later",
            )
        with held(project):
            verdict = evaluate_gate(words[0], project.root, policy, write=False)
            failed = [
                {"id": one.id, "slice": one.slice, "value": one.value}
                for one in verdict.failing()
                if one.status == "fail" and options.check in (None, one.id)
            ]
            added = waive(
                project.repo / "gates" / "waivers.yaml",
                failed,
                gate=verdict.gate,
                subject=verdict.subject_digest,
                reason=options.reason,
                owner=options.owner,
                expires=options.expires,
                today=policy.today,
            )
            for one in added:
                check = f"{one.check} [{one.slice}]" if one.slice else one.check
                said = f"{check} at {number(one.value)}, until {one.expires}"
                _note(project, verdict, "waiver added", said, options)
        for one in added:
            self.say(
                f"waived until {one.expires}: {one.gate}.{one.check} {one.slice} at {number(one.value)}, "
                f"for subject {one.subject[:12]}".replace("  ", " ")
            )
        self.say(NEXT)
        self.result = {"waived": [vars(one) for one in added]}
        return EXIT_GO


def _check_person(project: Project, reason: str) -> None:
    """Refuse to answer for a profile that was never built, or without a reason."""
    check_reason(reason, "--reason")
    if not project.root.is_dir():
        raise UserError("nothing is built yet", where=project.profile.name, fix="run `doit` first")


def _day(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        raise UserError("no such day", where="--expires", found=text, expected="YYYY-MM-DD") from None


def _note(project: Project, verdict: Verdict, event: str, said: str, options: argparse.Namespace, **more: Any) -> None:
    """A line of history about what a person did; the verdict itself changes when it is decided again."""
    row = {
        "event": event,
        "gate": verdict.gate,
        "from": verdict.verdict,
        "to": verdict.verdict,
        "reason": f"{event}: {said}; {options.owner}: {options.reason}",
        "owner": options.owner,
        "subject": verdict.subject_digest,
        "evidence": verdict.evidence_sha256,
        "policy": verdict.policy_sha256,
    }
    # The history takes a line that leads where the last one did for that very line; a person may do twice.
    row["verdict"] = digest_json(row | more)
    with one_writer(project.root):
        append_change(project.root, row | more)


class Accept(OurCommand):
    name = "accept"
    doc_purpose = "make the present values the baseline that later runs are compared with"
    words_doc = "[GATE ...]"
    takes = (0, 99)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--reason", required=True, help="why these values are good enough to be compared with")
        parser.add_argument("--owner", default=getpass.getuser(), help="who answers for it; default: you")
        parser.add_argument(
            "--worse",
            action="store_true",
            help="also where the gate is NO_GO only because a value fell under the present baseline",
        )
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        _check_person(project, options.reason)
        policy, path = policy_of(project), project.repo / "gates" / "baselines.json"
        wanted = [policy.gate(word).id for word in words] or [
            gate.id for gate in policy.gates.values() if baseline_checks(gate)
        ]
        with held(project):
            before = {one.gate: one for one in read_accepted(path) if one.profile == project.profile.name}
            verdicts = {gate: _acceptable(project, gate, worse=options.worse) for gate in wanted}
            found = {gate: _baseline(project, verdict, options) for gate, verdict in verdicts.items()}
            new = {gate: one for gate, one in found.items() if not _same(one, before.get(gate))}
            if new:
                accept(path, new.values())
            for gate, one in new.items():
                rows = _changes(one, before.get(gate))
                said = "; ".join(_told(row) for row in rows)
                more = {"baseline": one.digest, "changes": rows}
                _note(project, verdicts[gate], "baseline accepted", said, options, **more)
        self.result = {
            "accepted": [{**vars(one), "changes": _changes(one, before.get(gate))} for gate, one in new.items()],
            "unchanged": [gate for gate in found if gate not in new],
        }
        for gate in found:
            self._show(found[gate], before.get(gate), new=gate in new)
        if new:
            self.say(f"written to {path.relative_to(project.repo)}; commit it. {NEXT}")
        return EXIT_GO

    def _show(self, one: Accepted, old: Accepted | None, *, new: bool) -> None:
        if not new and old is not None:
            self.say(f"{one.gate}: this is the baseline already, accepted by {old.owner} on {old.day}")
            return
        self.say(f"{one.gate}: baseline accepted by {one.owner}, measured on {one.subject[:12]}")
        rows = [
            (
                f"{row['metric']} [{row['slice']}]" if row["slice"] else row["metric"],
                "(none)" if row["old"] is None else number(row["old"]),
                "->",
                "(none)" if row["new"] is None else number(row["new"]),
                "" if None in (row["old"], row["new"]) else f"{row['new'] - row['old']:+.4g}",
                f"n {row['n']}",
            )
            for row in _changes(one, old)
        ]
        self.say(*columns(rows, right={1, 3, 4}, indent="    "))


def _acceptable(project: Project, gate: str, *, worse: bool) -> Verdict:
    """The verdict of a gate whose values may become its baseline.

    Raises:
        UserError: it rests on what is stale, or it is NO_GO or CANNOT_DECIDE.
    """
    policy = policy_of(project)
    ids = {check.id for check in baseline_checks(policy.gate(gate))}
    if not ids:
        those = [one.id for one in policy.gates.values() if baseline_checks(one)]
        raise UserError("no check of this gate compares with a baseline", found=gate, expected=", ".join(those))
    for one in run_plan(project, [policy.gate(gate).stage]):
        if one.state != "fresh":
            why = "; ".join(one.lines()[:2])
            raise UserError(
                f"{gate} rests on a stage that is not up to date",
                where=one.stage.name,
                found=why,
                fix="run `doit`",
            )
    verdict = evaluate_gate(gate, project.root, policy, write=False)
    failing = verdict.failing()
    fell = bool(failing) and all(one.status == "fail" and one.id in ids for one in failing)
    if verdict.good or (fell and worse):
        return verdict
    fix = "`--worse` accepts the lower level" if fell else "see `doit gates`"
    raise UserError(
        "only what passes can be a baseline", where=gate, found=f"{verdict.verdict}, {verdict.reason}", fix=fix
    )


def _baseline(project: Project, verdict: Verdict, options: argparse.Namespace) -> Accepted:
    policy = policy_of(project)
    gate = policy.gate(verdict.gate)
    return Accepted(
        profile=project.profile.name,
        gate=gate.id,
        subject=verdict.subject_digest,
        evidence=verdict.evidence_sha256,
        owner=options.owner,
        reason=options.reason,
        day=policy.today.isoformat(),
        values=baseline_values(gate, read_evidence(evidence_path(project.root, gate))),
    )


def _same(one: Accepted, old: Accepted | None) -> bool:
    """Whether the same values of the same measurement are accepted already."""
    return old is not None and (one.evidence, one.values) == (old.evidence, old.values)


def _changes(one: Accepted, old: Accepted | None) -> list[dict[str, Any]]:
    before, after = old.numbers() if old else {}, one.numbers()
    keys = sorted({(metric, part) for values in (before, after) for metric in values for part in values[metric]})
    return [
        {
            "metric": metric,
            "slice": part,
            "old": before.get(metric, {}).get(part),
            "new": after.get(metric, {}).get(part),
            "n": one.values.get(metric, {}).get(part, {"n": 0})["n"],
        }
        for metric, part in keys
    ]


def _told(row: dict[str, Any]) -> str:
    old, new = ("none" if row[key] is None else number(row[key]) for key in ("old", "new"))
    return f"{row['metric']} {old} -> {new}"


class Diff(OurCommand):
    name = "diff"
    doc_purpose = "two runs side by side: decisions, verdicts, every measured value that differs, and why"
    words_doc = "A B"
    takes = (2, 2)

    def parser(self) -> Parser:
        parser = super().parser()
        parser.epilog = "A and B: a name under artifacts/, an artifact folder (also a copy), or a profile's file"
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        artifacts = project.repo / "artifacts"
        a, b = (find_side(word, artifacts, lambda profile: load(profile).root) for word in words)
        self.result = compare(a, b)
        self.say(*diff_lines(self.result, width()))
        return EXIT_BROKE if a.damaged or b.damaged else EXIT_GO


class History(OurCommand):
    name = "history"
    doc_purpose = "verdict changes, waivers and accepted baselines over time"

    def parser(self) -> Parser:
        parser = super().parser()
        parser.add_argument("--gate", metavar="ID", help="only this gate")
        parser.add_argument("--limit", type=whole_number, metavar="N", help="only the last N")
        return parser

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        gate = None if options.gate is None else policy_of(project).gate(options.gate).id
        rows = [row for row in read_history(project.root) if gate in (None, row.get("gate"))]
        shown = rows[-options.limit :] if options.limit else rows
        self.result = {"total": len(rows), "rows": shown}
        self.say(*_history_lines(shown))
        if not shown:
            self.say("nothing yet" if gate is None else f"nothing yet about {gate}")
        return EXIT_GO


def _history_lines(rows: Iterable[dict[str, Any]]) -> Iterable[str]:
    for row in rows:
        head = f"{row['time'][:19].replace('T', ' ')}  {row['gate']}  "
        head += "" if "event" in row else f"{row['from'] or '-'} -> {row['to']}  "
        yield from wrapped(f"{head}{row['reason']}".rstrip(), width(), "    ")
