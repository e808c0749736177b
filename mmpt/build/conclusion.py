"""What follows every run: the decision, the report, one line a gate, and the last line."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mmpt.build.declaration import measured_by
from mmpt.build.drawn import write_report
from mmpt.build.fingerprint import portable
from mmpt.build.project import Project
from mmpt.build.staleness import plan, told
from mmpt.build.tasks import policy_of
from mmpt.gating import Verdict, decide
from mmpt.gating.text import gate_line


def conclude(
    project: Project, *, strict: bool = False, fresh: Collection[str] = (), brief: bool = False
) -> int:
    """Decide, write decision.json and the report, print the gates and the decision; returns its exit code.

    GO on measurements of an older profile or older code is no GO: it is CANNOT-DECIDE until they are made
    again.

    Args:
        strict: ignore waivers.
        fresh: stages that this process already found fresh, or built.
        brief: print the decision only; for a run that bad input stopped, whose message should stand out.
    """
    old = stale_measurements(project, fresh)
    decision = decide(project.root, policy_of(project, strict), portable(project.profile.data), stale=old)
    write_report(project)
    if not brief:
        print_gates(decision.verdicts)
    for name, why in () if brief else old.items():
        # Of stages without a result the gates have said it.
        if (project.root / name).exists() or all(one.good for one in decision.verdicts):
            print(f"stale: {name}: {why}")
    print(f"report: {(project.root / 'report' / 'index.html').relative_to(project.repo)}")
    print(decision.decision, flush=True)
    return decision.exit_code


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


def print_gates(verdicts: Iterable[Verdict]) -> None:
    """One line a gate: value against bound."""
    for verdict in verdicts:
        print(gate_line(verdict.to_json()))
