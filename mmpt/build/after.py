"""A profile that requires another profile's GO, as promote requires trial's: key `after` names that profile.

The GO must stand (its decision, on the results that are there now) and be one of the same codecs, base and LoRA:
another base's GO says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmpt.build.fingerprint import portable
from mmpt.build.policy import profile_file
from mmpt.build.project import Project
from mmpt.build.receipts import MANIFEST, RECEIPT, definition_of, read_receipt
from mmpt.gating.decision import read_decision
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError

SAME = {"codecs": "codecs", "base": "base", "train": "lora"}
"""Stage -> the profile key, read by it, that both profiles must have alike."""


def require_go(project: Project) -> None:
    """Raise UserError if the profile that `after` names has no GO for this one to go on from."""
    if why := next(wanting(project), ""):
        name = project.profile.data["after"]
        raise UserError(
            f"this profile goes on after a GO of {name}",
            where=f"{profile_file(project)}: after",
            found=why,
            expected=f"artifacts/{name}/decision.json with GO, of the same codecs, base and LoRA",
            fix=f"run `doit profile={name}`; in a profile of your own, `after` names another profile or null",
        )


def wanting(project: Project) -> Iterator[str]:
    """What the GO of the profile that `after` names lacks; nothing where no profile is named."""
    name = project.profile.data.get("after")
    if not name:
        return
    root = project.root.parent / name
    try:
        decision = read_decision(root)
    except UserError as error:
        yield f"no decision of {name}: {error.what}"
        return
    if decision["decision"] != "GO":
        yield f"{name} is {decision['decision']}"
    yield from (
        f"stage {one} of {name} changed after its decision" for one in _changed(root, decision["digests"]["stages"])
    )
    yield from (f"{name} has another `{key}`" for key in _others(project, root))


def _changed(root: Path, decided: dict[str, str]) -> list[str]:
    now = {path.parent.name: path for path in root.glob(f"*/{MANIFEST}")}
    return [stage for stage, digest in decided.items() if stage not in now or sha256_file(now[stage]) != digest]


def _others(project: Project, root: Path) -> Iterator[str]:
    for stage, key in SAME.items():
        path = root / stage / RECEIPT
        if path.is_file() and definition_of(read_receipt(path))["slice"].get(key) != portable(
            project.profile.data.get(key)
        ):
            yield key
