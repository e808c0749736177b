"""What `doit help` prints about a gate and about the keys of a profile, and `doit profile` about a resolved profile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from mmpt.build.declaration import Stage
from mmpt.gating.checks import Check
from mmpt.gating.columns import width, wrapped
from mmpt.gating.floors import FLOORS
from mmpt.gating.policy import Policy
from mmpt.gating.rules import named_remedy
from mmpt.profile.keys import Key, find, keys, origins
from mmpt.profile.load import Profile

SIGNS = {
    "min": "value >= bound",
    "max": "value <= bound",
    "equal": "value = bound",
    "ci_low_above": "low end of the 95 % interval > bound",
    "ci_high_max": "high end of the 95 % interval <= bound",
    "ci_high_below": "high end of the 95 % interval < bound",
}


def gate_lines(policy: Policy, gate_id: str) -> list[str]:
    """One gate: its question, the stage that measures it, and for each check its bound, n, severity and remedy."""
    gate = policy.gate(gate_id)
    head = [f"gate {gate.id}: {gate.title}", f"  measured by stage {gate.stage}; blocks {gate.blocks}"]
    floors = {floor.id for floor in FLOORS.get(gate_id, ())}
    changed = {(one.gate, one.check) for one in policy.overrides}
    for check in gate.checks:
        notes = ["no file can lower it"] if check.id in floors else []
        notes += ["changed by the profile"] if (gate_id, check.id) in changed else []
        remedy = named_remedy(check.remedy, policy, gate_id)
        head += [
            "",
            f"  {check.id} ({', '.join([check.severity, *notes])}): {check.message}",
            *_check_lines(check, remedy),
        ]
    return [
        *head,
        "",
        f"doit gates: the present verdict; waive: doit waive {gate_id} --check ID --reason .. --owner .. --expires ..",
    ]


def _check_lines(check: Check, remedy: str) -> list[str]:
    bound = "" if check.threshold is None else f"bound {check.threshold:g}"
    if check.compared_with is not None:
        of = "accepted baseline" if check.compared_with == "baseline" else check.compared_with
        bound += f"{', ' if bound else ''}bound {check.factor:g} x {of} {check.margin:+g}"
    slices = "every slice" if check.each else ", ".join(one for one in check.slices if one)
    parts = [SIGNS[check.rule], bound, f"n >= {check.min_n}", slices]
    lines = wrapped(f"{check.metric}: {', '.join(part for part in parts if part)}", width(), " " * 6, first=" " * 4)
    return [*lines, *(wrapped(f"remedy: {remedy}", width(), " " * 6, first=" " * 4) if remedy else ())]


def key_lines(name: str | None, stages: Iterable[Stage]) -> list[str]:
    """One key, the keys of a section, or (name None) all keys, each with the stages that read it."""
    table = list(stages)
    found = list(keys().values()) if name is None else find(name)
    if name is None:
        size = max(len(key.name) for key in found) + 2
        lines = [line for key in found for line in wrapped(key.means, width(), " " * size, first=key.name.ljust(size))]
        return [*lines, "", "doit help profile KEY: type, unit, default and the stages that read it"]
    return [line for key in found for line in _key_lines(key, table)]


def _key_lines(key: Key, stages: list[Stage]) -> list[str]:
    facts = [key.type, f"in {key.unit}" if key.unit else "", f"default: {key.default}" if key.default else ""]
    readers = [stage.name for stage in stages if any(_reads(one, key.name) for one in (*stage.slice, *stage.external))]
    lines = [f"{key.name}: {', '.join(fact for fact in facts if fact)}", *wrapped(key.means, width(), "  ", first="  ")]
    return [*lines, *(wrapped(f"read by {', '.join(readers)}", width(), "    ", first="  ") if readers else ())]


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
