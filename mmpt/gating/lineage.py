"""Whether a stage's result, and so its evidence, is about the present artifacts, by receipts and manifests.

Evidence counts only if its stage's receipt vouches for its manifest, and if every input that the receipt
names is the manifest now on disk, all the way up. An artifact that was swapped or built again after it was
measured is found here.
"""

from __future__ import annotations

from pathlib import Path

from mmpt.store.canonical import read_sealed
from mmpt.store.digests import sha256_file
from mmpt.store.errors import Edited, UserError

NOT_YET = "has no result yet"


class Lineage:
    """Answers for one artifact folder; a stage is looked at once, so each evaluation makes a new one."""

    def __init__(self, root: Path):
        self.root = root
        self._problems: dict[str, str] = {}

    def problem(self, stage: str) -> str:
        """Why the result of ``stage`` does not stand on what is on disk; empty if it does."""
        if stage not in self._problems:
            self._problems[stage] = ""  # a circle in forged receipts ends here
            self._problems[stage] = self._look(stage)
        return self._problems[stage]

    def _look(self, stage: str) -> str:
        folder = self.root / stage
        if not (folder / "MANIFEST.sha256").is_file():
            return f"stage {stage} {NOT_YET}"
        try:
            receipt = read_sealed(folder / "receipt.json")
            subject = receipt["subject"][0]["digest"]["sha256"]
            inputs = {
                one["name"].removeprefix("artifact:"): one["digest"]["sha256"]
                for one in receipt["predicate"]["buildDefinition"]["resolvedDependencies"]
                if one["name"].startswith("artifact:")
            }
        except Edited:
            return f"the receipt of stage {stage} was edited"
        except (UserError, KeyError, IndexError, TypeError, AttributeError):
            return f"stage {stage} has no readable receipt"
        if subject != sha256_file(folder / "MANIFEST.sha256"):
            return f"the manifest of stage {stage} is not the one its receipt vouches for"
        return self._changed(stage, inputs)

    def _changed(self, stage: str, inputs: dict[str, str]) -> str:
        """The first cause, so that all stages below it tell of the same one."""
        for name in sorted(inputs):
            if not (self.root / name / "MANIFEST.sha256").is_file():
                return f"stage {stage} was made from {name}, which is gone"
            if above := self.problem(name):
                return above
        for name, digest in sorted(inputs.items()):
            if sha256_file(self.root / name / "MANIFEST.sha256") != digest:
                return f"stage {stage} was made from another {name} than is there now"
        return ""
