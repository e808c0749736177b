"""One check on the metrics of one evidence: a value against a bound, or why that cannot be decided."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmpt.gating.checks import RISING, Check
from mmpt.gating.conditions import CONDITIONS
from mmpt.gating.policy import Policy

Metrics = Mapping[tuple[str, str], Mapping[str, Any]]  # (name, slice) -> metric
# An interval's end within this distance of its bound does not pass: means of equal captions differ by 2e-17, by order.
ROUNDING = 1e-9


@dataclass(frozen=True)
class CheckResult:
    """The result of one check on one slice. Other fields are those of `Check` and of the metric.

    Args:
        severity: block, warn or info, after the conditions of the profile.
        bound: the bound that was applied, the stricter of the threshold and the compared value; None: no bound.
        compared_with: value of the other metric or of the baseline that the rule compares with; None: none.
        status: pass | warn | fail | waived | cannot_decide | not_applicable.
        note: the reason of cannot_decide, not_applicable and waived.
    """

    id: str
    metric: str
    slice: str
    severity: str
    rule: str
    bound: float | None
    warn_bound: float | None
    compared_with: float | None
    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int | None
    min_n: int
    unit: str
    status: str
    message: str
    remedy: str
    note: str = ""


# Remedies may contain {run}, the artifact folder, and the check's {gate} and {stage}.
MORE = "measure more items: more records, a larger split.test, golden.per_task or golden.ablation"
FEWER = "; or accept fewer in the profile, with the reason: gates: [{gate: {gate}, check: .., min_n: .., reason: ..}]"
UNMEASURED = "stage {stage} did not report it: {run}/logs/{stage}.log says why; mend that, then run doit"


class _Undecided(Exception):
    """Why a check cannot decide, and what to do about it."""

    def __init__(self, why: str, remedy: str = UNMEASURED):
        super().__init__(why)
        self.remedy = remedy


def index_metrics(evidence: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """(name, slice) -> metric.

    Raises:
        ValueError: a name and slice occurs twice.
    """
    index: dict[tuple[str, str], Mapping[str, Any]] = {}
    for metric in evidence["metrics"]:
        key = (metric["name"], metric["slice"])
        if key in index:
            raise ValueError(f"metric {key[0]} [{key[1]}] occurs twice")
        index[key] = metric
    return index


def apply_check(check: Check, metrics: Metrics, policy: Policy, gate_id: str) -> Iterator[CheckResult]:
    """The results of one check, one per slice."""
    severity = next((level for name, level in check.severity_when if name in policy.holds), check.severity)
    check = replace(check, severity=severity)
    if check.requires is not None and check.requires not in policy.holds:
        results = [_result(check, "", "not_applicable", note=CONDITIONS[check.requires])]
    else:
        results = [_slice(check, part, metrics, policy, gate_id) for part in _parts(check, metrics, policy)]
    yield from (replace(one, remedy=named_remedy(one.remedy, policy, gate_id)) for one in results)


def named_remedy(remedy: str, policy: Policy, gate_id: str) -> str:
    """A remedy with {run}, {gate} and {stage} filled in."""
    names = {
        "run": f"artifacts/{policy.profile or 'NAME'}",
        "stage": policy.gate(gate_id).stage,
        "gate": gate_id,
    }
    for name, value in names.items():
        remedy = remedy.replace("{" + name + "}", value)
    return remedy


def _parts(check: Check, metrics: Metrics, policy: Policy) -> list[str]:
    """The slices of a check, including missing ones.

    If a check takes each measured slice, every slice that it names must begin the name of a measured one. If none was
    measured, the named slice counts as missing instead of passing.
    """
    if not check.each:
        return list(check.slices)
    found = sorted(part for name, part in metrics if name == check.metric)
    found = [part for part in found if not _absent(part, policy)]
    return found + [name for name in check.slices if not any(_begins(part, name) for part in found)]


def _absent(part: str, policy: Policy) -> str:
    """The task or modality in a slice's name that the profile does not have; "": it has all."""
    return next((word for word in part.split(".") if word in policy.absent), "")


def _begins(part: str, name: str) -> bool:
    return name in ("", part) or part.startswith(f"{name}.")


def _slice(check: Check, part: str, metrics: Metrics, policy: Policy, gate_id: str) -> CheckResult:
    if absent := _absent(part, policy):
        return _result(check, part, "not_applicable", note=policy.absent[absent])
    return _decide(check, part, metrics, policy.baselines.get(gate_id, {}))


def _decide(check: Check, part: str, metrics: Metrics, baselines: Mapping[str, Mapping[str, float]]) -> CheckResult:
    metric = metrics.get((check.metric, part))
    compared_with = _compared_with(check, part, metrics, baselines)
    if check.compared_with == "baseline" and compared_with is None:
        return _result(check, part, "not_applicable", metric, note="no accepted baseline")
    if metric is None and check.optional:
        return _result(check, part, "not_applicable", note="not measured")
    try:
        bound, warn_bound = _bounds(check, compared_with)
        measured = _measured(check, metric)
    except _Undecided as why:
        result = _result(check, part, "cannot_decide", metric, note=str(why))
        return replace(result, remedy=why.remedy)
    if not _holds(check.rule, measured, bound):
        status = (
            "cannot_decide"
            if check.on_fail == "cannot_decide"
            else {"block": "fail", "warn": "warn", "info": "pass"}[check.severity]
        )
        note = check.message if status == "cannot_decide" else ""
    else:
        tight = warn_bound is not None and not _holds(check.rule, measured, warn_bound)
        status, note = ("warn" if tight and check.severity != "info" else "pass"), ""
    return replace(
        _result(check, part, status, metric, note=note),
        bound=bound,
        warn_bound=warn_bound,
        compared_with=compared_with,
    )


def _compared_with(
    check: Check, part: str, metrics: Metrics, baselines: Mapping[str, Mapping[str, float]]
) -> float | None:
    if check.compared_with is None:
        return None
    if check.compared_with == "baseline":
        return baselines.get(check.metric, {}).get(part)
    found = metrics.get((check.compared_with, part))
    return found["value"] if found is not None and _finite(found["value"]) else None


def _bounds(check: Check, compared_with: float | None) -> tuple[float, float | None]:
    """The bound and the tighter warning bound; with both a threshold and a metric to compare with, the stricter."""
    bounds = [] if check.threshold is None else [float(check.threshold)]
    if check.compared_with is not None:
        if compared_with is None:
            raise _Undecided(f"no metric {check.compared_with} to compare with")
        bounds.append(check.factor * compared_with + check.margin)
    return (max(bounds) if check.rule in RISING else min(bounds)), check.warn_threshold


def _measured(check: Check, metric: Mapping[str, Any] | None) -> float:
    """The number that the rule compares: the value, or an end of its interval."""
    if metric is None:
        raise _Undecided(f"no metric {check.metric} in the evidence")
    if not _finite(metric["value"]):
        raise _Undecided("the value is missing or not a number")
    if metric["n"] < check.min_n:
        raise _Undecided(f"n = {metric['n']} is too small, at least {check.min_n} needed", (check.more or MORE) + FEWER)
    if check.rule == "max" and check.threshold == 0 and metric["value"] < 0:
        raise _Undecided(f"{metric['value']} cannot be a number of offenders")
    if check.rule in ("min", "max", "equal"):
        return float(metric["value"])
    low, high = metric["ci_low"], metric["ci_high"]
    if not (_finite(low) and _finite(high)):
        raise _Undecided("the interval is missing or not a number")
    if low > high:
        raise _Undecided(f"the interval {low} .. {high} is upside down")
    return float(low if check.rule == "ci_low_above" else high)


def _holds(rule: str, value: float, bound: float) -> bool:
    return {
        "min": value >= bound,
        "max": value <= bound,
        "equal": value == bound,
        "ci_low_above": value > bound + ROUNDING,
        "ci_high_max": value <= bound,
        "ci_high_below": value < bound - ROUNDING,
    }[rule]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _result(
    check: Check, part: str, status: str, metric: Mapping[str, Any] | None = None, note: str = ""
) -> CheckResult:
    shown = {
        key: metric[key] if metric is not None and _finite(metric[key]) else None
        for key in ("value", "ci_low", "ci_high")
    }
    return CheckResult(
        check.id,
        check.metric,
        part,
        check.severity,
        check.rule,
        check.threshold,
        check.warn_threshold,
        None,
        **shown,
        n=metric["n"] if metric is not None else None,
        min_n=check.min_n,
        unit=metric["unit"] if metric is not None else "",
        status=status,
        message=check.message,
        remedy=check.remedy,
        note=note,
    )
