"""Gates and checks as plain data; gates/policy.yaml explains every field."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One rule on one metric; the fields are explained at the top of gates/policy.yaml."""

    id: str
    metric: str
    rule: str
    severity: str
    message: str
    remedy: str
    slices: tuple[str, ...] = ("",)
    each: bool = False
    threshold: float | None = None
    reference: str | None = None
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


@dataclass(frozen=True)
class Gate:
    """A gate: which stage measures it, what it blocks, and its checks in order."""

    id: str
    title: str
    stage: str
    blocks: str
    checks: tuple[Check, ...]
    requires: str | None = None

    def check(self, name: str) -> Check | None:
        """The check of that id."""
        return next((check for check in self.checks if check.id == name), None)
