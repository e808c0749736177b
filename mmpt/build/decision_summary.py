"""The end of every run: the decision, the report, and their summary on a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.build.call import hinted
from mmpt.build.declaration import measured_by
from mmpt.build.fingerprint import portable
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.report_writer import write_report
from mmpt.build.staleness import plan, told
from mmpt.build.withdrawal import released, withdraw_release
from mmpt.gating import Verdict, decide, evaluate_all
from mmpt.gating.columns import width
from mmpt.gating.decision import EXIT, outcome
from mmpt.gating.decision import told as headline_of
from mmpt.gating.softening import Softening
from mmpt.gating.text import gate_table


@dataclass(frozen=True)
class DecisionSummary:
    """What a profile's artifacts amount to.

    Args:
        word: GO, NO-GO or CANNOT-DECIDE.
        headline: the same in the line that is shown, with tasks and softenings.
        softenings: everything that is weaker than the defaults.
        stale: stage that a gate rests on and that is of another profile, code or input -> why.
        report: index.html, below the clone; None where none was asked for.
    """

    word: str
    headline: str
    strict: bool
    softenings: tuple[Softening, ...]
    verdicts: tuple[Verdict, ...]
    stale: Mapping[str, str]
    report: Path | None = None

    @property
    def exit_code(self) -> int:
        """0, 10 or 20."""
        return EXIT[self.word]

    def lines(self) -> list[str]:
        """The gates, what is stale, where the report is; the decision is the last line."""
        told = [] if self.report is None else [f"report: {self.report}"]
        if self.word == "NO-GO":
            told.append("one diagnosis over all gates, and a profile to run next: `doit advise`")
        return [
            *gate_table([_hinted(one) for one in self.verdicts], width()),
            *self.stale_lines(),
            *told,
            self.headline,
        ]

    def stale_lines(self) -> list[str]:
        """One line per stale stage."""
        return [f"stale: {name}: {why}" for name, why in self.stale.items()]

    def to_json(self) -> dict[str, Any]:
        """As commands.schema.json describes it."""
        return {
            "decision": self.word,
            "headline": self.headline,
            "softenings": [one.to_json() for one in self.softenings],
            "strict": self.strict,
            "stale": dict(self.stale),
            "gates": [one.to_json() for one in self.verdicts],
            **({} if self.report is None else {"report": self.report.as_posix()}),
        }


def _hinted(verdict: Verdict) -> dict[str, Any]:
    """A verdict as JSON whose remedies name commands as this call would type them."""
    body = verdict.to_json()
    return body | {"checks": [{**one, "remedy": hinted(one["remedy"])} for one in body["checks"]]}


def look(project: Project, *, strict: bool = False) -> DecisionSummary:
    """What ``conclude`` would come to; writes nothing."""
    policy = policy_of(project, strict)
    verdicts = tuple(evaluate_all(project.root, policy, write=False))
    stale = stale_measurements(project)
    word, shown = outcome(policy, verdicts, stale), _worth_telling(project, verdicts, stale)
    return DecisionSummary(word, headline_of(word, policy), strict, policy.softenings, verdicts, shown)


def conclude(project: Project, *, strict: bool = False, fresh: Collection[str] = ()) -> DecisionSummary:
    """Decide, write decision.json and the report.

    GO on measurements of an older profile or older code is no GO: it is CANNOT-DECIDE until they are made
    again. Without a GO a release of an earlier one is taken away.

    Args:
        strict: ignore waivers.
        fresh: stages that this process already found fresh, or built.
    """
    stale = stale_measurements(project, fresh)
    policy = policy_of(project, strict)
    if released(project) and outcome(policy, evaluate_all(project.root, policy, write=False), stale) != "GO":
        withdraw_release(project)  # before the decision, which names what is there by digest
    decision = decide(project.root, policy, portable(project.profile.data), stale=stale)
    report = write_report(project, stale).relative_to(project.repo)
    shown = _worth_telling(project, decision.verdicts, stale)
    word, line = decision.decision, decision.body["headline"]
    return DecisionSummary(word, line, strict, policy.softenings, decision.verdicts, shown, report)


def _worth_telling(project: Project, verdicts: tuple[Verdict, ...], stale: dict[str, str]) -> dict[str, str]:
    """Of stages without a result the gates have said it."""
    all_good = all(one.good for one in verdicts)
    return {name: why for name, why in stale.items() if all_good or (project.root / name).exists()}


def stale_measurements(project: Project, fresh: Collection[str] = ()) -> dict[str, str]:
    """Stage that a gate rests on, of another profile, code or input than the present -> why."""
    return {
        one.stage.name: told(one.reasons) if one.reasons else f"waits for {', '.join(one.waits_for)}"
        for one in plan(project, fresh)
        if one.state != "fresh" and _decides(project, one.stage.name)
    }


def _decides(project: Project, name: str) -> bool:
    """Whether a gate rests on this stage, directly or through its users."""
    users = (stage.name for stage in project.stages if name in stage.inputs)
    return name in measured_by(project.stages).values() or any(_decides(project, user) for user in users)
