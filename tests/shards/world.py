"""Stage bodies run one after another without the build: a folder with one data folder a stage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.stages.codecs import codecs
from mmpt.stages.corpus import corpus
from mmpt.stages.examples import examples
from mmpt.stages.golden import golden
from mmpt.stages.manifest import manifest
from mmpt.stages.shard_audit import shard_audit
from mmpt.stages.shards import shards
from mmpt.stages.split import split
from mmpt.stages.token_space import token_space
from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens.space import TokenSpace, load
from tests.codecs.forked_contract import forked_contract

PROFILE: dict[str, Any] = {
    "corpus": {
        "on_bad_record": "skip",
        "sources": [{"name": "generated", "reader": "generated", "pictures": 90, "sounds": 60}],
    },
    "split": {"val": 0.1, "test": 0.3},
    "codecs": {
        "audio": {"name": "melrvq", "clip_seconds": 0.5, "n_codebooks": 2, "codebook_size": 16},
        "image": {"name": "patchvq", "size": 16, "patch": 4, "codebook_size": 32},
    },
    "text": {"vocab_size": 300},
    "token_space": {"n_special": 16},
    "base": {"kind": "tiny"},
    "shards": {"records_per_shard": 16, "batch": 8},
    "examples": {"max_seq_len": 192, "max_prompt_tokens": 64},
    "golden": {"per_task": 12, "ablation": 16},
}
BODIES: dict[str, Callable[[StageContext], None]] = {
    "corpus": corpus,
    "manifest": manifest,
    "split": split,
    "codecs": codecs,
    "token_space": token_space,
    "shards": shards,
    "shard_audit": shard_audit,
    "examples": examples,
    "golden": golden,
}


@dataclass(frozen=True)
class World:
    """``root/<stage>``: data folders of the stages run so far."""

    root: Path
    profile: dict[str, Any]
    external: dict[str, Path]

    def path(self, stage: str) -> Path:
        return self.root / stage

    @property
    def space(self) -> TokenSpace:
        return load(self.path("token_space"))

    def context(self, stage: str, out: Path, work: Path, **changes: Any) -> StageContext:
        """A context whose inputs are all stages there are; ``changes``: dotted profile keys."""
        profile = copy.deepcopy(self.profile)
        for dotted, value in changes.items():
            section, key = dotted.split("__")
            profile[section][key] = value
        out.mkdir(parents=True, exist_ok=True)
        work.mkdir(parents=True, exist_ok=True)
        return StageContext(
            name=stage,
            profile=SliceView(profile, tuple(profile), stage),
            out=out,
            work=work,
            seed=7,
            inputs={name: self.root / name for name in BODIES},
            external=dict(self.external),
        )

    def run(self, stage: str, out: Path | None = None, work: Path | None = None, **changes: Any) -> Path:
        """Run one body; without ``out`` into this world."""
        out = out or self.path(stage)
        with forked_contract():
            BODIES[stage](self.context(stage, out, work or out.with_name(f"{out.name}.work"), **changes))
        return out


def build_world(root: Path, profile: dict[str, Any] | None = None, external: dict[str, Path] | None = None) -> World:
    """All stages in order."""
    profile = copy.deepcopy(profile or PROFILE)
    root.mkdir(parents=True, exist_ok=True)
    for name, numbers in (("replay_file", range(400)), ("heldout_file", range(400, 500))):
        path = root / f"{name}.txt"
        path.write_text("".join(f"number {n} follows number {n - 1} and comes before {n + 1}.\n" for n in numbers))
        profile["text"].setdefault(name, str(path))
    world = World(root, profile, external or {})
    for stage in BODIES:
        world.run(stage)
    return world
