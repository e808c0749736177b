"""Codec plug-ins that a profile names: where their source lies, and whether they can be used at all.

The source of a named plug-in is code of every stage that opens codecs, so its digest is in their fingerprints. A
plug-in that the profile does not name changes nothing.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from mmpt.codecs import names
from mmpt.store.errors import UserError

REGISTRY = "mmpt.codecs.registry"  # a stage whose closure contains it opens codecs


@functools.cache
def _found(name: str, modality: str) -> EntryPoint | None:
    try:
        return names.entry_point(name, modality)
    except UserError:
        return None


def points(codecs: Mapping[str, Any]) -> dict[str, EntryPoint | None]:
    """Codec name -> entry point, of the named codecs that are not built in; None where no package offers it."""
    sections = {modality: section for modality, section in codecs.items() if section}
    return {
        section["name"]: _found(section["name"], modality)
        for modality, section in sections.items()
        if section["name"] not in names.BUILT_IN
    }


def folders(codecs: Mapping[str, Any]) -> dict[str, Path]:
    """Top-level package of each named plug-in -> its folder, or its file where it is a single module.

    A package that cannot be found is left out: opening the codec reports it.
    """
    found = {}
    for point in points(codecs).values():
        top = point.module.partition(".")[0] if point else ""
        spec = importlib.util.find_spec(top) if top else None
        if spec is not None and spec.origin is not None:
            path = Path(spec.origin)
            found[top] = path.parent if spec.submodule_search_locations else path
    return found


def bodies(codecs: Mapping[str, Any]) -> list[str]:
    """What the named plug-ins are made of, as `CodeIndex.closure` takes it: "module:attribute" or "module"."""
    attributes = ((point, point.attr.partition(".")[0]) for point in points(codecs).values() if point)
    return sorted(f"{point.module}:{attribute}".rstrip(":") for point, attribute in attributes)


def versions(codecs: Mapping[str, Any]) -> dict[str, str]:
    """Key "codec <name>" -> entry point and version of its distribution, or "absent"."""
    return {
        f"codec {name}": f"{point.value} {point.dist.version if point.dist else ''}".strip() if point else "absent"
        for name, point in points(codecs).items()
    }


def require_codecs(profile: Mapping[str, Any]) -> None:
    """Refuse, before the first stage, codecs that no stage could use. Named plug-ins are imported.

    Args:
        profile: a profile's data.

    Raises:
        UserError: an unknown codec, two packages that register one name, a codec of the other modality, a plug-in
            that cannot be imported; `warmup.init: codec` where no codec offers code vectors.
    """
    sections = {modality: one for modality, one in profile.get("codecs", {}).items() if one}
    if not names.named_plugins(sections):
        return  # every built-in codec offers code vectors
    from mmpt.codecs.registry import plugin  # numpy: only for profiles with a plug-in

    found = [plugin(one["name"], modality) for modality, one in sections.items()]
    offered = [
        one["name"] in names.BUILT_IN or getattr(codec, "code_vectors", False)
        for one, codec in zip(sections.values(), found, strict=True)
    ]
    if profile.get("warmup", {}).get("init") == "codec" and not any(offered):
        raise UserError(
            "no codec of this profile offers code vectors",
            where="warmup.init",
            found="codec",
            expected="random or quiet",
            fix="if the codec has code_vectors(), its plug-in says so with `code_vectors = True`",
        )
