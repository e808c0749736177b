"""Gates and checks as plain data. gates/<id>_*.py and gates/policy.yaml explain the fields."""

from __future__ import annotations

from dataclasses import dataclass

RULES = ("min", "max", "equal", "ci_low_above", "ci_high_max", "ci_high_below")
RISING = ("min", "ci_low_above")  # rules where a higher bound is stricter


@dataclass(frozen=True)
class Check:
    """One rule on one metric.

    Args:
        id: name inside the gate; a profile and a waiver address it as GATE.id.
        metric: its name in the evidence.
        slices: parts that must all be there; without: the slice "".
        each: every slice of the metric that is in the evidence counts; ``slices`` names what must be among them.
        compared_with: another metric of the same slice that the bound is made of, or "baseline": the accepted value.
        on_fail: "cannot_decide": where it fails, the measurement itself is not to be trusted.
        voids: checks of the same slice that cannot decide while this one does not pass.
        requires: condition of the profile without which the check does not apply.
        optional: not measured is fine (warn and info only).
        more: what raises n, where it is not the number of records and of golden items.

    The numbers and the severity come from gates/policy.yaml and are explained there.
    """

    id: str
    metric: str
    rule: str
    severity: str
    message: str
    remedy: str
    slices: tuple[str, ...] = ("",)
    each: bool = False
    threshold: float | None = None
    compared_with: str | None = None
    factor: float = 1.0
    margin: float = 0.0
    warn_threshold: float | None = None
    min_n: int = 1
    severity_when: tuple[tuple[str, str], ...] = ()
    on_fail: str = "no_go"
    voids: tuple[str, ...] = ()
    requires: str | None = None
    optional: bool = False
    more: str = ""


# The fields that a script in gates/ states, and those that gates/policy.yaml states.
OF_SCRIPT = (
    *("id", "metric", "slices", "each", "rule", "compared_with", "on_fail", "voids", "requires", "optional"),
    *("message", "remedy", "more"),
)
OF_POLICY = ("severity", "severity_when", "threshold", "factor", "margin", "warn_threshold", "min_n")


@dataclass(frozen=True)
class Gate:
    """A gate: which stage measures it, what it blocks, and its checks in order.

    Args:
        missing: (check, why) of those that the code knows and a file does not state, or states as something else.
            The gate cannot be decided while there is one.
    """

    id: str
    title: str
    stage: str
    blocks: str
    checks: tuple[Check, ...]
    requires: str | None = None
    missing: tuple[tuple[str, str], ...] = ()

    def check(self, name: str) -> Check | None:
        """The check of that id."""
        return next((check for check in self.checks if check.id == name), None)
