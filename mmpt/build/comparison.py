"""Two runs side by side, from what they left on disk: receipts, evidence, verdicts. Nothing is measured
again, and nothing is compared whose digest does not hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmpt.build.fingerprint import Definition
from mmpt.build.receipts import DATA, MANIFEST, RECEIPT, definition_of, read_receipt, subject_digest
from mmpt.gating import read_decision, read_verdict
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import read_evidence
from mmpt.store.schema import nearest

Row = dict[str, Any]


@dataclass
class Side:
    """One artifact folder.

    Args:
        name: as the user gave it; root: the folder.
        decision: GO, NO-GO, CANNOT-DECIDE, or "" where none is on file.
        definitions: stage -> what its result was made of; outputs: stage -> digest of its manifest.
        machines: machine key -> its value over all stages, sorted.
        evidence, verdicts: gate -> file's content.
        damaged: what is there and cannot be believed, one line each.
    """

    name: str
    root: Path
    decision: str = ""
    definitions: dict[str, Definition] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    machines: dict[str, set[str]] = field(default_factory=dict)
    evidence: dict[str, Row] = field(default_factory=dict)
    verdicts: dict[str, Row] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)

    def try_to(self, read: Callable[..., None], *what: Any) -> None:
        """Read one thing into this side, or note that it is damaged."""
        try:
            read(self, *what)
        except (UserError, OSError, UnicodeDecodeError) as error:
            self.damaged.append(str(error).replace(f"{self.root}/", ""))


def find_side(name: str, artifacts: Path, root_of: Callable[[str], Path]) -> Side:
    """The run that a word means, read: a name under artifacts/, a folder, or a profile's file.

    Args:
        root_of: profile file -> its artifact folder.

    Raises:
        UserError: there is no such run.
    """
    if name.endswith((".yaml", ".yml")):
        root = root_of(name)
    else:
        root = artifacts / name if (artifacts / name).is_dir() else Path(name)
    if not any(root.glob(f"*/{RECEIPT}")):
        known = [one.name for one in artifacts.glob("*") if any(one.glob(f"*/{RECEIPT}"))]
        what = "holds no finished stage" if root.is_dir() else "no such run"
        fix = nearest(name, known) if known else "run `doit` first"
        raise UserError(what, found=name, expected="a name under artifacts/, or an artifact folder", fix=fix)
    return read_side(name, root)


def read_side(name: str, root: Path) -> Side:
    """Read what a run left."""
    side = Side(name, root)
    for folder in sorted(path.parent for path in root.glob(f"*/{RECEIPT}")):
        side.try_to(_read_stage, folder)
    for path in sorted(root.glob("gates/*/verdict.json")):
        side.try_to(_read_verdict, path)
    if (root / "decision.json").exists():
        side.try_to(_read_decision)
    return side


def _read_stage(side: Side, folder: Path) -> None:
    receipt = read_receipt(folder / RECEIPT, deep=True)
    manifest = folder / MANIFEST
    if sha256_file(manifest) != subject_digest(receipt):
        raise UserError("not the manifest that the receipt names", where=manifest)
    side.definitions[folder.name] = definition_of(receipt)
    side.outputs[folder.name] = subject_digest(receipt)
    for key, value in receipt["predicate"]["runDetails"]["machine"].items():
        side.machines.setdefault(key, set()).add(value)
    listed = dict(Manifest.parse(manifest.read_text(encoding="utf-8"), manifest).entries)
    for path in sorted((folder / DATA / "evidence").glob("*.json")):
        side.try_to(_read_evidence, path, listed)


def _read_evidence(side: Side, path: Path, listed: Mapping[str, str]) -> None:
    if listed.get(f"evidence/{path.name}") != sha256_file(path):
        raise UserError("not the evidence that the stage published", where=path)
    side.evidence[path.stem] = read_evidence(path)


def _read_verdict(side: Side, path: Path) -> None:
    verdict = read_verdict(side.root, path.parent.name)
    evidence = side.root / verdict["stage"] / DATA / "evidence" / f"{verdict['gate']}.json"
    if verdict["evidence_sha256"] != (sha256_file(evidence) if evidence.exists() else ""):
        raise UserError("decided on other evidence than is there now", where=path, fix="`doit decide`")
    side.verdicts[verdict["gate"]] = verdict


def _read_decision(side: Side) -> None:
    decision = read_decision(side.root)
    side.decision = decision["decision"]
    for gate, entry in decision["gates"].items():
        verdict = side.root / "gates" / gate / "verdict.json"
        if gate in side.verdicts and entry["sha256"] != sha256_file(verdict):
            del side.verdicts[gate]
            side.damaged.append(f"gates/{gate}/verdict.json: not the verdict that decision.json rests on")


def compare(a: Side, b: Side) -> Row:
    """Everything that differs, as commands.schema.json describes the result of `doit diff`."""
    metrics, lacks = _metrics(a, b)
    parts = {"inputs": "external", "code": "code", "packages": "packages", "runtime": "runtime"}
    return {
        **{
            letter: {
                "name": one.name,
                "path": str(one.root),
                "decision": one.decision,
                "damaged": one.damaged,
            }
            for letter, one in (("a", a), ("b", b))
        },
        "lacks": {"a": _lacks(a, b) + lacks["a"], "b": _lacks(b, a) + lacks["b"]},
        "verdicts": _verdicts(a, b),
        "checks": _checks(a, b, "status"),
        "bounds": _checks(a, b, "bound"),
        "metrics": metrics,
        "compared": sum(
            len(_by_slice(a.evidence[gate]).keys() & _by_slice(b.evidence[gate]).keys())
            for gate in a.evidence.keys() & b.evidence.keys()
        ),
        "profile": _unequal(_keys(a), _keys(b)),
        **{part: _unequal(_union(a, key), _union(b, key)) for part, key in parts.items()},
        "machine": _unequal(_joined(a.machines), _joined(b.machines)),
        "outputs": _unequal(_shared(a.outputs, b.outputs), _shared(b.outputs, a.outputs)),
        "stages": len(a.outputs.keys() & b.outputs.keys()),
    }


def _lacks(side: Side, other: Side) -> list[str]:
    """What the other has and this one has not; a missing stage stands for its evidence too."""
    stages = sorted(other.outputs.keys() - side.outputs.keys())
    gates = [
        gate
        for gate in sorted(other.evidence.keys() - side.evidence.keys())
        if other.verdicts.get(gate, {}).get("stage") not in stages
    ]
    verdicts = sorted(other.verdicts.keys() - side.verdicts.keys())
    return (
        [f"stage {name}" for name in stages]
        + [f"evidence of {gate}" for gate in gates]
        + [f"verdict of {gate}" for gate in verdicts]
    )


def _verdicts(a: Side, b: Side) -> list[Row]:
    return [
        {
            "gate": gate,
            "title": b.verdicts[gate]["title"],
            "a": a.verdicts[gate]["verdict"],
            "b": b.verdicts[gate]["verdict"],
            "reason_a": a.verdicts[gate]["reason"],
            "reason_b": b.verdicts[gate]["reason"],
        }
        for gate in sorted(a.verdicts.keys() & b.verdicts.keys())
        if a.verdicts[gate]["verdict"] != b.verdicts[gate]["verdict"]
    ]


def _checks(a: Side, b: Side, key: str) -> list[Row]:
    """Checks of both whose ``key`` differs."""
    rows = []
    for gate in sorted(a.verdicts.keys() & b.verdicts.keys()):
        old, new = ({(one["id"], one["slice"]): one for one in side.verdicts[gate]["checks"]} for side in (a, b))
        rows += [
            {"gate": gate, "check": name, "slice": part, "a": one[key], "b": new[name, part][key]}
            for (name, part), one in old.items()
            if (name, part) in new and one[key] != new[name, part][key]
        ]
    return rows


def _by_slice(evidence: Row) -> dict[tuple[str, str], Row]:
    return {(one["name"], one["slice"]): one for one in evidence["metrics"]}


def _metrics(a: Side, b: Side) -> tuple[list[Row], dict[str, list[str]]]:
    """Metrics whose value differs, and those that one side lacks although it has the gate's evidence."""
    rows: list[Row] = []
    lacks: dict[str, list[str]] = {"a": [], "b": []}
    for gate in sorted(a.evidence.keys() & b.evidence.keys()):
        old, new = _by_slice(a.evidence[gate]), _by_slice(b.evidence[gate])
        for letter, missing in (("a", new.keys() - old.keys()), ("b", old.keys() - new.keys())):
            lacks[letter] += [f"metric {gate} {_named(*key)}" for key in sorted(missing)]
        rows += [
            _metric(gate, one, new[key]) for key, one in old.items() if key in new and one["value"] != new[key]["value"]
        ]
    return rows, lacks


def _named(name: str, part: str) -> str:
    return f"{name} [{part}]" if part else name


def _metric(gate: str, old: Row, new: Row) -> Row:
    known = old["value"] is not None and new["value"] is not None
    delta = new["value"] - old["value"] if known else None
    change = "different"
    if delta is not None and new["direction"] != "none":
        change = "better" if (delta > 0) == (new["direction"] == "higher") else "worse"
    kept = ("value", "n", "ci_low", "ci_high")
    return {
        "gate": gate,
        "metric": new["name"],
        "slice": new["slice"],
        "unit": new["unit"],
        "direction": new["direction"],
        "a": {key: old[key] for key in kept},
        "b": {key: new[key] for key in kept},
        "delta": delta,
        "change": change,
    }


def _keys(side: Side) -> dict[str, Any]:
    """Profile keys that the stages read, dotted down to single values."""
    flat: dict[str, Any] = {}
    for definition in side.definitions.values():
        for key, value in definition["slice"].items():
            _flatten(key, value, flat)
    return flat


def _flatten(key: str, value: Any, flat: dict[str, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, below in value.items():
            _flatten(f"{key}.{name}", below, flat)
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for at, below in enumerate(value):
            _flatten(f"{key}[{at}]", below, flat)
    else:
        flat[key] = value


def _union(side: Side, part: str) -> dict[str, Any]:
    """One part of the definitions of all stages."""
    found: dict[str, Any] = {}
    for definition in side.definitions.values():
        found |= definition[part]
    return found


def _joined(machines: Mapping[str, set[str]]) -> dict[str, str]:
    return {key: ", ".join(sorted(values)) for key, values in machines.items()}


def _shared(of: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in of.items() if name in other}


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Row]:
    """Rows {"name", "a", "b"} of what differs; null where a side has nothing."""
    return [
        {"name": name, "a": old.get(name), "b": new.get(name)}
        for name in sorted({*old, *new})
        if name not in old or name not in new or old[name] != new[name]
    ]
