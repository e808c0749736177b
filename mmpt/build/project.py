"""One profile's build: the stage table, the profile, the artifact folder and the caches of digests."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.build.code import CodeIndex
from mmpt.build.declaration import Stage, by_name
from mmpt.build.plugins import folders as plugin_folders
from mmpt.build.sources import Sources
from mmpt.profile import Profile
from mmpt.store.errors import UserError
from mmpt.store.resources import shared
from mmpt.store.schema import nearest
from mmpt.store.stat_cache import StatCache

OUTSIDE = ".outside"  # below artifacts/: digests of files that are not artifacts; may be deleted at any time


@dataclass(frozen=True, eq=False)
class Project:
    """Everything that the build of one profile needs to know.

    Args:
        stages: the table, inputs before users.
        profile: what to build.
        repo: the project folder, which holds dodo.py, gates/ and artifacts/; a clone is one.
        packages: names of the packages whose source counts as code.
    """

    stages: tuple[Stage, ...]
    profile: Profile
    repo: Path
    packages: tuple[str, ...] = ("mmpt",)

    @property
    def root(self) -> Path:
        """artifacts/<profile>."""
        return self.repo / "artifacts" / self.profile.name

    @property
    def state(self) -> Path:
        """Caches and the lock; may be deleted at any time."""
        return self.root / ".state"

    @property
    def staging(self) -> Path:
        """Where stages write until they are published; on the file system of ``root``."""
        return self.root / ".staging"

    @functools.cached_property
    def names(self) -> dict[str, Stage]:
        """Stage name -> stage."""
        return by_name(self.stages)

    @property
    def granted(self) -> tuple[Stage, ...]:
        """The stages whose output rests on a GO."""
        return tuple(stage for stage in self.stages if stage.granted)

    @functools.cached_property
    def stat_cache(self) -> StatCache:
        """Digests of artifacts, by the stat of each file."""
        return StatCache(self.state / "stat.json")

    @functools.cached_property
    def outside_cache(self) -> StatCache:
        """Digests of media, weights and texts, by the stat of each file; shared by all profiles."""
        return StatCache(self.repo / "artifacts" / OUTSIDE / "stat.json")

    @functools.cached_property
    def sources(self) -> Sources:
        """The files that this profile uses of its sources' folders."""
        return Sources(self.profile, self.outside_cache, self.repo / "artifacts" / OUTSIDE / "sources.json")

    @functools.cached_property
    def code(self) -> CodeIndex:
        """The source code when this process first read it."""
        return self.read_code()

    def read_code(self) -> CodeIndex:
        """The source code now."""
        folders = {name: _folder(name) for name in self.packages}
        plugins = plugin_folders(self.profile.data.get("codecs", {}))
        return CodeIndex(folders, shared("csrc"), self.state / "code.json", plugins)

    def stage(self, name: str) -> Stage:
        """The stage called ``name``.

        Raises:
            UserError: there is none; names the nearest.
        """
        if name not in self.names:
            raise UserError("no such stage", found=name, fix=nearest(name, self.names))
        return self.names[name]

    def compiled_for(self, stage: Stage) -> str:
        """Name of the input that holds the compiled operations; "": the stage has none."""
        return next((name for name in stage.inputs if self.names[name].compiled), "")

    def media_for(self, stage: Stage) -> str:
        """Name of the input that names the sources' media and makes some; "": the stage has none."""
        return next((name for name in stage.inputs if self.names[name].media), "")

    def runtime(self, key: str) -> Any:
        """One of the profile's runtime settings: device, dtype or threads."""
        return self.profile.data["runtime"][key]

    def save_caches(self) -> None:
        """Write the caches for the next process."""
        self.stat_cache.save()
        self.outside_cache.save()
        self.sources.save()
        self.code.save()


def _folder(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError("no such package", found=package)
    return Path(found.origin).parent
