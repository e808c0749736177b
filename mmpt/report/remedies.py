"""What to do next: for each gate in the way of GO what was measured, by how much it missed, and the remedy.

Causes come before consequences: failed and undecided checks first, then evidence that does not stand, and
last the gates that only wait for a stage that has not run, which are no news of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmpt.gating.hints import typed
from mmpt.gating.lineage import NOT_YET
from mmpt.gating.text import check_name
from mmpt.report.margins import sentence
from mmpt.report.metrics import meaning

AGAIN = "run `{command}`: it makes again what does not stand"
AFTER = "mend what is above, then run `{command}`"
LOGS = "run `{command}`; where a stage broke, `{logs}` says why"

Check = Mapping[str, Any]


def remedies(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry per gate in the way of GO, or a group of gates with one cause.

    Returns:
        {"gate", "label", "verdict", "stage", "log", "steps"}; a group of gates has no stage and no log.
        A step is {"remedy", "findings"}; a finding {"problem", "meaning", "lines"}; a line {"name": check or
        slice, "said": value, need and miss}. Texts in backticks are commands or names.
    """
    bad = [one for one in report["verdicts"] if one["verdict"] in ("NO_GO", "CANNOT_DECIDE")]
    entries = [_measured(report, one) for one in bad if any(map(_stands_in_the_way, one["checks"]))]
    silent = [one for one in bad if not any(map(_stands_in_the_way, one["checks"]))]
    fallen = [one for one in silent if NOT_YET not in one["reason"]]
    if fallen:
        reasons = _grouped(fallen, lambda one: one["reason"]).items()
        lines = [_line(", ".join(one["gate"] for one in many), reason) for reason, many in reasons]
        entries.append(_group(report, fallen, "Evidence that does not stand", lines, AGAIN))
    waiting = [one for one in silent if NOT_YET in one["reason"]]
    if waiting:
        stages = _grouped(waiting, lambda one: one["stage"]).items()
        lines = [_line(", ".join(one["gate"] for one in many), f"waits for stage {stage}") for stage, many in stages]
        entries.append(_group(report, waiting, "Not measured yet", lines, AFTER if entries else LOGS))
    return entries


def outdated(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Lines {"name", "said"} of what was measured on another profile, code or input: the first stage and why,
    then the others, which mostly follow from it.
    """
    stale = list(report["stale"].items())
    lines = [_line(*stale[0])] if stale else []
    return lines + ([_line("also", ", ".join(name for name, _ in stale[1:]))] if stale[1:] else [])


def log_of(report: Mapping[str, Any], stage: str) -> str:
    """Where a stage's log lies, from the folder that the commands run in."""
    return f"artifacts/{report['profile']}/logs/{stage}.log"


def _measured(report: Mapping[str, Any], verdict: Mapping[str, Any]) -> dict[str, Any]:
    """A gate whose own checks stand in the way: its findings by remedy."""
    checks = [one for one in verdict["checks"] if _stands_in_the_way(one)]
    steps = [
        {
            "remedy": typed(remedy, report["command"]),
            "findings": [_finding(some) for some in _grouped(many, _problem).values()],
        }
        for remedy, many in _grouped(checks, lambda one: one["remedy"]).items()
    ]
    kept = {key: verdict[key] for key in ("gate", "verdict", "stage")}
    return {
        **kept,
        "label": f"{verdict['gate']} {verdict['title']}",
        "log": log_of(report, verdict["stage"]),
        "steps": steps,
    }


def _group(
    report: Mapping[str, Any], verdicts: list[Mapping[str, Any]], title: str, lines: list[dict], remedy: str
) -> dict[str, Any]:
    """Several gates with one cause, told under the first one's name."""
    logs = f"artifacts/{report['profile']}/logs"
    remedy = remedy.format(command=report["command"], logs=logs)
    step = {"remedy": remedy, "findings": [{"problem": "", "meaning": "", "lines": lines}]}
    label = f"{title}: {len(verdicts)} gate{'s' * (len(verdicts) > 1)}"
    head = {"gate": verdicts[0]["gate"], "label": label, "verdict": "CANNOT_DECIDE", "stage": ""}
    return {**head, "log": "", "steps": [step]}


def warnings(report: Mapping[str, Any]) -> list[dict[str, str]]:
    """Checks that warn and so block nothing: {"gate", "name", "said", "problem", "remedy"}."""
    return [
        {
            "gate": verdict["gate"],
            "name": check_name(one),
            "said": sentence(one),
            "problem": one["message"],
            "remedy": typed(one["remedy"], report["command"]),
        }
        for verdict in report["verdicts"]
        for one in verdict["checks"]
        if one["status"] == "warn" or (one["status"] == "cannot_decide" and one["severity"] == "warn")
    ]


def _stands_in_the_way(check: Check) -> bool:
    """A blocking check that fails or cannot decide, unless it only rests on another that is listed itself."""
    bad = check["severity"] == "block" and check["status"] in ("fail", "cannot_decide")
    return bad and not check["note"].startswith("rests on check")


def _problem(check: Check) -> tuple[str, str]:
    """What is said once for all slices."""
    few = check["n"] is not None and check["n"] < check["min_n"]
    why = "too few items to decide" if few else check["note"] or check["message"]
    return (why if check["status"] == "cannot_decide" else check["message"]), check["metric"]


def _finding(checks: list[Check]) -> dict[str, Any]:
    lines = [_line(one["slice"] or one["id"], sentence(one)) for one in checks]
    return {"problem": _problem(checks[0])[0], "meaning": meaning(checks[0]["metric"]), "lines": lines}


def _line(name: str, said: str) -> dict[str, str]:
    return {"name": name, "said": said}


def _grouped(many: Iterable[Mapping[str, Any]], key: Callable[[Any], Any]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for one in many:
        groups.setdefault(key(one), []).append(one)
    return groups
