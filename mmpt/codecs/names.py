"""Names of codecs: the built-in ones, and those that packages register in entry-point group `mmpt.codecs`.

The build reads names at every command, so this module imports neither numpy nor any plug-in.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.schema import nearest

GROUP = "mmpt.codecs"
BUILT_IN = {
    "melrvq": ("audio",),
    "encodec": ("audio",),
    "transformers": ("audio", "image"),
    "snac": ("audio",),
    "patchvq": ("image",),
    "seed": ("image",),
    "llamagen": ("image",),
}
"""Built-in codec -> its modalities."""


def names(modality: str | None = None) -> list[str]:
    """Names that a profile may use, sorted. With `modality`, built-in codecs of the other one are left out; the
    modality of a plug-in is not known before it is imported.
    """
    found = {*BUILT_IN, *(point.name for point in entry_points(group=GROUP))}
    return sorted(name for name in found if modality is None or modality in BUILT_IN.get(name, (modality,)))


def entry_point(name: str, modality: str) -> EntryPoint:
    """The entry point of a codec that is not built in.

    Raises:
        UserError: no package registers that name, or two packages register different objects under it.
    """
    where = f"codecs.{modality}.name"
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if not points:
        others = [one for one in names(modality) if one not in BUILT_IN]
        raise UserError(
            f"unknown {modality} codec",
            where=where,
            found=name,
            expected=f"{', '.join(one for one, kinds in BUILT_IN.items() if modality in kinds)} (built in)"
            + (f", or a plug-in for {modality}: {', '.join(others)}" if others else ""),
            fix=f"{nearest(name, names(modality))}; others register under entry-point group {GROUP}",
        )
    if len({point.value for point in points}) > 1:
        raise UserError(
            f"two packages register a codec under one name in {GROUP}",
            where=where,
            found=name,
            expected="one: " + " or ".join(sorted(point.value for point in points)),
            fix="uninstall one of them",
        )
    return points[0]


def named_plugins(codecs: Mapping[str, Any]) -> dict[str, EntryPoint]:
    """Modality -> entry point, of the codecs in a profile's section `codecs` that are not built in.

    Raises:
        UserError: as `entry_point`, and for a built-in codec of the other modality.
    """
    found = {}
    for modality, section in codecs.items():
        if not section:
            continue
        name = section["name"]
        if name not in BUILT_IN:
            found[modality] = entry_point(name, modality)
        elif modality not in BUILT_IN[name]:
            raise wrong_modality(name, modality, f"modality {BUILT_IN[name][0]!r}")
    return found


def wrong_modality(name: str, modality: str, found: str) -> UserError:
    """The error for a codec whose `modality` is not that of the profile section which names it."""
    return UserError(
        f"codec {name} is not an {modality} codec",
        where=f"codecs.{modality}.name",
        found=found,
        expected=f"modality {modality!r}",
    )
