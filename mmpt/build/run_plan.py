"""What the next run would do with every stage: staleness, and the gates that would hold a stage back."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from mmpt.build.declaration import Stage, measured_by
from mmpt.build.fingerprint import define, fingerprint
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.runner import work_folder
from mmpt.build.sharing import find
from mmpt.build.staleness import Planned, Reason, plan
from mmpt.gating import Verdict, evaluate_gate
from mmpt.store.model_files import TRAINER_STATE

LEFT = {
    "used": "goes on from what an interrupted run left",
    "nothing": "from its beginning: an interrupted run had saved nothing yet",
    "unused": "from its beginning: what an interrupted run left is of other settings, code or inputs",
}
CHECKPOINTS = "run/steps"  # of a training stage, below its work folder


@dataclass(frozen=True)
class StagePlan:
    """One stage in the next run.

    Args:
        state: "fresh"; "runs"; "may run" if the output of an input that runs changes; "blocked" if a gate or
            another stage would hold it back.
        reasons: why it is stale itself.
        waits_for: inputs that are not fresh.
        held_by: gates that it needs, that are not GO, and whose measurement would not be made again.
        behind: stages that it needs and that are blocked themselves.
        asked: it is fresh, and was asked for with -a.
        there: where its result is already, to be taken from instead of built; empty where nowhere.
        left: what becomes of what an interrupted run left: "used", "unused", "nothing" where it had saved nothing, or
            empty where there was none.
        step: of the checkpoint that a training stage goes on from.
    """

    stage: Stage
    state: str
    reasons: tuple[Reason, ...]
    waits_for: tuple[str, ...]
    held_by: tuple[Verdict, ...] = ()
    behind: tuple[str, ...] = ()
    asked: bool = False
    left: str = ""
    there: str = ""
    step: int | None = None

    def lines(self) -> list[str]:
        """Why, one line a cause."""
        lines = [str(reason) for reason in self.reasons] + ["asked for (-a)"] * self.asked
        if self.state == "may run":
            lines.append(f"only if the output of {' or '.join(self.waits_for)} changes")
        lines += [*self.remains(), *self.holds()]
        return [*lines, *(f"waits for {name}, which is blocked" for name in self.behind)]

    def remains(self) -> list[str]:
        """What there is of its result already: elsewhere, or of an interrupted run."""
        there = [f"its result is in {self.there} and is taken from there"] if self.there else []
        return [*there, *left_lines(self.left, self.step)]

    def holds(self) -> list[str]:
        """One line per gate that holds it back."""
        return [f"held back by gate {one.gate}, {one.verdict}: {one.reason}".rstrip(": ") for one in self.held_by]

    def to_json(self) -> dict[str, Any]:
        """As commands.schema.json describes it."""
        return {
            "stage": self.stage.name,
            "state": self.state,
            "reasons": [reason_json(reason) for reason in self.reasons],
            "asked": self.asked,
            "left": self.left,
            "step": self.step,
            "there": self.there,
            "waits_for": list(self.waits_for),
            "held_by": [{"gate": one.gate, "verdict": one.verdict, "reason": one.reason} for one in self.held_by],
            "behind": list(self.behind),
        }


def left_lines(left: str, step: int | None) -> list[str]:
    """What `what_is_left` found, in words; nothing where it found nothing."""
    if step is not None:
        return [f"goes on from step {step}, where an interrupted run saved"]
    return [LEFT[left]] if left else []


def reason_json(reason: Reason) -> dict[str, Any]:
    """A reason with its exact old and new value."""
    return {
        "kind": reason.kind,
        "name": reason.name,
        "old": reason.old,
        "new": reason.new,
        "text": str(reason),
        "tampered": reason.tampered,
    }


def run_plan(
    project: Project, names: Collection[str] = (), *, always: bool = False, single: bool = False
) -> list[StagePlan]:
    """Every stage that a run would look at, in table order.

    Args:
        names: the stages asked for; none: all.
        always: they run even if they are fresh.
        single: only they, not what they need.
    """
    planned = {one.stage.name: one for one in plan(project)}
    wanted = set(names) if single else with_inputs(project, names or project.names)
    states: dict[str, StagePlan] = {}
    for name, one in planned.items():
        if name in wanted:
            states[name] = _one(project, one, states, always and name in names)
    return list(states.values())


def with_inputs(project: Project, names: Iterable[str]) -> set[str]:
    """The stages of that name, what they read, and what measures the gates they need, all the way up."""
    found, measures = set(), measured_by(project.stages)
    queue = list(names)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += [*project.names[name].inputs, *(measures[gate] for gate in project.names[name].needs)]
    return found


def _one(project: Project, own: Planned, before: dict[str, StagePlan], forced: bool) -> StagePlan:
    asked = forced and not own.reasons
    waits = tuple(name for name in own.stage.inputs if name in before and before[name].state != "fresh")
    state = "runs" if own.reasons or asked else "may run" if waits else "fresh"
    if state == "fresh":
        return StagePlan(own.stage, state, own.reasons, waits)
    held = _holding(project, own.stage, before)
    measures = measured_by(project.stages)
    needed = dict.fromkeys([*own.stage.inputs, *(measures[gate] for gate in own.stage.needs)])
    behind = tuple(name for name in needed if name in before and before[name].state == "blocked")
    shown = "blocked" if held or behind else state
    if waits:  # its fingerprint is not known before its inputs are
        return StagePlan(own.stage, shown, own.reasons, waits, held, behind, asked)
    identity = fingerprint(define(project, own.stage))
    there = "" if forced else next((one.name for one in find(project, own.stage, identity)), "")
    left, step = what_is_left(project, own.stage, identity)
    return StagePlan(own.stage, shown, own.reasons, waits, held, behind, asked, left, there, step)


def what_is_left(project: Project, stage: Stage, identity: str = "") -> tuple[str, int | None]:
    """Whether the next run would find work of an interrupted one that is its own (`StagePlan.left`), and the step.

    Args:
        identity: fingerprint of the stage, where it is known.
    """
    folders = [one for one in project.staging.glob(f"work-{stage.name}-*") if one.is_dir()]
    there = {one.name for one in folders if any(one.iterdir())}
    there.discard(f"work-{stage.name}-evaluations")  # of a run that ended
    if not there:
        return "", None
    folder = work_folder(project, stage, identity or fingerprint(define(project, stage)))
    if folder.name not in there:
        return "unused", None
    saved = folder.glob(f"{CHECKPOINTS}/step_*/{TRAINER_STATE}")
    steps = [int(path.parent.name.removeprefix("step_")) for path in saved]
    if max(steps, default=0):
        return "used", max(steps)
    return ("nothing" if (folder / CHECKPOINTS).parent.exists() else "used"), None


def _holding(project: Project, stage: Stage, before: dict[str, StagePlan]) -> tuple[Verdict, ...]:
    measures = measured_by(project.stages)
    settled = [gate for gate in stage.needs if measures[gate] not in before or before[measures[gate]].state == "fresh"]
    verdicts = (evaluate_gate(gate, project.root, policy_of(project), write=False) for gate in settled)
    return tuple(one for one in verdicts if not one.good)
