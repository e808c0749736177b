"""What `doit help` prints about a gate and about the keys of a profile, and `doit profile` about a resolved profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from mmpt.build.call import hinted
from mmpt.build.declaration import Stage
from mmpt.gating.checks import RISING, Check
from mmpt.gating.columns import width, wrapped
from mmpt.gating.floors import FLOORS
from mmpt.gating.policy import Policy
from mmpt.gating.rules import named_remedy
from mmpt.profile.keys import Key, find, keys, origins
from mmpt.profile.load import Profile
from mmpt.store.errors import UserError
from mmpt.store.schema import nearest

COMPARED = {
    "min": "the value >=",
    "max": "the value <=",
    "equal": "the value =",
    "ci_low_above": "the low end of the 95 % interval >",
    "ci_high_max": "the high end of the 95 % interval <=",
    "ci_high_below": "the high end of the 95 % interval <",
}


def gate_lines(policy: Policy, gate_id: str, check_id: str | None = None) -> list[str]:
    """One gate: its question, the stage that measures it, and for each check its bound, n, severity and remedy.

    Args:
        check_id: only this check.

    Raises:
        UserError: no such check, with the nearest.
    """
    gate = policy.gate(gate_id)
    if check_id is not None and gate.check(check_id) is None:
        raise UserError(
            f"gate {gate_id} has no such check",
            found=check_id,
            fix=nearest(check_id, [one.id for one in gate.checks]),
        )
    blocks = f"blocks {gate.blocks}" if any(one.severity == "block" for one in gate.checks) else "warns, blocks nothing"
    lines = [f"gate {gate.id}: {gate.title}", f"  measured by stage {gate.stage}; {blocks}"]
    for check in gate.checks:
        if check_id in (None, check.id):
            lines += ["", *_check_lines(check, policy, gate_id)]
    way = f"doit waive {gate_id} --check ID --reason .. --owner .. --expires .."
    return [*lines, "", f"`doit gates`: the present verdict; waive: `{way}`"]


def _check_lines(check: Check, policy: Policy, gate_id: str) -> list[str]:
    firm = check.id in {floor.id for floor in FLOORS.get(gate_id, ())}
    notes = ["no file can lower it"] if firm else []
    own = [one for one in policy.overrides if (one.gate, one.check) == (gate_id, check.id)]
    notes += [f"{one.key} {one.default} -> {one.value} by the profile: {one.reason}" for one in own]
    head = f"{check.id} ({', '.join([check.severity, *notes])}): {check.message}"
    lines = wrapped(head, width(), "    ", first="  ")
    slices = "every slice" if check.each else ", ".join(one for one in check.slices if one)
    asks = "" if check.severity == "info" else _asks(check)
    parts = [asks, f"n >= {check.min_n}" if check.min_n > 1 else "", slices]
    lines += wrapped(f"{check.metric}: {'; '.join(one for one in parts if one)}", width(), " " * 6, first=" " * 4)
    if check.severity == "info" or not check.remedy:
        return lines
    remedy = hinted(named_remedy(check.remedy, policy, gate_id))
    return lines + wrapped(f"remedy: {remedy}", width(), " " * 6, first=" " * 4)


def _asks(check: Check) -> str:
    """ "the value >= 0.7, and >= truth_read_win_rate - 0.15"; of two bounds the stricter one holds."""
    bounds = [] if check.threshold is None else [f"{check.threshold:g}"]
    if check.compared_with is not None:
        of = "the accepted baseline" if check.compared_with == "baseline" else check.compared_with
        factor = "" if check.factor == 1 else f"{check.factor:g} x "
        margin = "" if not check.margin else f" {'+' if check.margin > 0 else '-'} {abs(check.margin):g}"
        bounds.append(f"{factor}{of}{margin}")
    compared = COMPARED[check.rule]
    text = f"{compared} " + f" and {compared.split()[-1]} ".join(bounds)
    side = "below" if check.rule in RISING else "above"
    return text if check.warn_threshold is None else f"{text} (warns {side} {check.warn_threshold:g})"


def key_lines(name: str | None, stages: Iterable[Stage], profile: Profile | None = None) -> list[str]:
    """One key, the keys of a section, or (name None) all keys, each with the stages that read it.

    Args:
        profile: whose present value is named, too, with the file that states it.
    """
    table = list(stages)
    found = list(keys().values()) if name is None else find(name)
    if name is None:
        size = max(len(key.name) for key in found) + 2
        lines = [line for key in found for line in wrapped(key.means, width(), " " * size, first=key.name.ljust(size))]
        return [*lines, "", "doit help profile KEY: type, unit, default and the stages that read it"]
    own = origins(profile.path, profile.data) if profile else {}
    return [line for key in found for line in _key_lines(key, table, profile, own)]


def _key_lines(key: Key, stages: list[Stage], profile: Profile | None, own: Mapping[str, str]) -> list[str]:
    unit = {"": "", "share": "a share"}.get(key.unit, f"in {key.unit}")
    facts = [key.type, unit, f"default: {key.default}" if key.default else ""]
    readers = [stage.name for stage in stages if any(_reads(one, key.name) for one in (*stage.slice, *stage.external))]
    lines = [f"{key.name}: {', '.join(fact for fact in facts if fact)}", *wrapped(key.means, width(), "  ", first="  ")]
    if (value := _value(profile.data if profile else {}, key.name)) is not None:
        files = dict.fromkeys(file for name, file in own.items() if f"{name}.".startswith(f"{key.name}."))
        here = f"here: {_flow(value)}" + (f" ({', '.join(files)})" if files else "")
        lines += wrapped(here, width(), "    ", first="  ")
    return [*lines, *(wrapped(f"read by {', '.join(readers)}", width(), "    ", first="  ") if readers else ())]


def _value(data: Any, dotted: str) -> Any:
    """The value of a dotted key; None where the profile has none."""
    for part in dotted.split("."):
        data = data.get(part) if isinstance(data, Mapping) else None
    return data


def _reads(slice_key: str, key: str) -> bool:
    return key == slice_key or key.startswith(slice_key + ".") or slice_key.startswith(key + ".")


def profile_lines(profile: Profile, policy: Policy) -> list[str]:
    """The resolved profile as YAML; after each value the file that states it, below it the softenings."""
    own = origins(profile.path, profile.data)
    lines = [f"# {profile.path}"]
    for name in profile.data:
        lines += _yaml_lines(name, profile.data[name], name, own, 0)
    soft = policy.softenings
    lines += ["", "# softened:" + ("" if soft else " nothing")]
    return [*lines, *(f"#   {one}" for one in soft)]


def _yaml_lines(key: str, value: Any, dotted: str, own: Mapping[str, str], depth: int) -> list[str]:
    if isinstance(value, Mapping) and value:
        below = [line for k, v in value.items() for line in _yaml_lines(k, v, f"{dotted}.{k}", own, depth + 1)]
        return [f"{'  ' * depth}{key}:", *below]
    if isinstance(value, list) and any(isinstance(one, Mapping) for one in value):
        items = [f"{'  ' * depth}  - {_flow(one)}" for one in value]
        return [_with_origin(f"{'  ' * depth}{key}:", dotted, own), *items]
    return [_with_origin(f"{'  ' * depth}{key}: {_flow(value)}", dotted, own)]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True)
    return text.strip().removesuffix("\n...")


def _with_origin(line: str, dotted: str, own: Mapping[str, str]) -> str:
    return f"{line:<60}  # {own[dotted]}" if dotted in own else line
