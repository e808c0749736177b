"""A check in plain words: what it requires, and by how much it missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmpt.gating.text import bound_text, compared, number

Check = Mapping[str, Any]


def needs(check: Check) -> str:
    """ "≥ 0.7", "lower end > 0", "nothing" for a count of offenders."""
    if check["rule"] == "max" and check["bound"] == 0:
        return "none"
    return signs(bound_text(check))


def missed(check: Check) -> str:
    """ "short by 0.1648 (24 %)", "over by 12"; empty where the bound was met or nothing was compared."""
    value, bound = compared(check), check["bound"]
    if check["status"] == "cannot_decide" and check["n"] is not None and check["n"] < check["min_n"]:
        return f"only {check['n']} items, at least {check['min_n']} needed"
    if value is None or bound is None or check["status"] not in ("fail", "warn", "waived", "cannot_decide"):
        return ""
    rising = check["rule"] in ("min", "ci_low_above")
    off = bound - value if rising else value - bound
    if check["rule"] == "equal":
        return f"off by {number(abs(off))}" if off else ""
    if off < 0 or (off == 0 and check["rule"] in ("min", "max", "ci_high_max")):
        return ""
    share = f" ({off / abs(bound):.0%})".replace("%", " %") if bound and off <= abs(bound) else ""
    return f"{'short' if rising else 'over'} by {number(off)}{share}"


def measured(check: Check) -> str:
    """Value with unit, and its interval where there is one: "0.0033 nats/token (95 % -0.0026 .. 0.01)"."""
    if check["value"] is None:
        return "no value"
    text = number(check["value"]) + (f" {check['unit']}" if check["unit"] not in ("", "share") else "")
    if check["ci_low"] is None or check["ci_high"] is None:
        return text
    return f"{text} (95 % {number(check['ci_low'])} .. {number(check['ci_high'])})"


def sentence(check: Check) -> str:
    """One line: "0.5352, needs ≥ 0.7: short by 0.1648 (24 %), n 256"."""
    if check["value"] is None:
        return check["note"] or "no value"
    miss = missed(check)
    said = f"{measured(check)}, needs {needs(check)}" + (f": {miss}" if miss else "")
    return said if miss.startswith("only") or check["n"] is None else f"{said}, n {check['n']}"


def signs(text: str) -> str:
    """With the signs that readers know."""
    return text.replace(">=", "≥").replace("<=", "≤")
