"""`doit profile`: the resolved profile, each value with the file that states it."""

from __future__ import annotations

import argparse

from mmpt.build.commandline import OurCommand
from mmpt.build.help_pages import profile_lines
from mmpt.build.project import Project
from mmpt.build.tasks import policy_of
from mmpt.profile.keys import origins
from mmpt.store.errors import EXIT_GO


class ShowProfile(OurCommand):
    name = "profile"
    doc_purpose = "the resolved profile: every value with the file that states it, and what is softened"

    def main(self, project: Project, options: argparse.Namespace, words: list[str]) -> int:
        profile, policy = project.profile, policy_of(project)
        self.say(*profile_lines(profile, policy))
        self.result = {
            "profile": dict(profile.data),
            "origins": origins(profile.path, profile.data),
            "softenings": [one.to_json() for one in policy.softenings],
        }
        return EXIT_GO
