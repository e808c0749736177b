"""The policy of a project's profile, and the part of it that a release states."""

from __future__ import annotations

import functools
import os
from dataclasses import asdict
from typing import Any

from mmpt.build.project import Project
from mmpt.gating import Policy, load_policy
from mmpt.gating.decision import told
from mmpt.profile import PACKAGED
from mmpt.store.canonical import digest_json


@functools.cache
def policy_of(project: Project, strict: bool = False) -> Policy:
    """The policy as it holds for a project's profile, read once per process."""
    path = project.repo / "gates" / "policy.yaml"
    return load_policy(path, project.profile.data, file=profile_file(project), strict=strict)


def profile_file(project: Project) -> str:
    """The profile's file as a person names it: relative to the clone, a packaged one by its name."""
    path = project.profile.path
    return path.name if path.parent == PACKAGED else os.path.relpath(path, project.repo)


def granted(project: Project) -> dict[str, Any]:
    """What a release carries of the decision that it rests on: its line, policy, softenings, waivers on file."""
    policy = policy_of(project)
    softenings = [one.to_json() for one in policy.softenings]
    waivers = [asdict(one) for one in policy.waivers]
    return {
        "headline": told("GO", policy),
        "policy_sha256": policy.digest,
        "softenings": softenings,
        "softenings_sha256": digest_json(softenings),
        "waivers": waivers,
        "waivers_sha256": digest_json(waivers),
    }
