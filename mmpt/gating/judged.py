"""Whether the adapter that is released is the one that was judged.

Every gate that judged the trained model names its adapter's digest; the released file has that digest, or there is no
release.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.canonical import read_json
from mmpt.store.digests import Manifest, sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import read_evidence

ADAPTER = "adapter_model.safetensors"
RELEASE = "RELEASE.json"
# Gate -> (stage that measures it, name of the trained adapter in the evidence's subject).
MEASURED = {
    "B1": ("train", "checkpoint"),
    "B3": ("ablation", "final"),
    "L1": ("ablation", "final"),
    "B4": ("generate", "final"),
    "C1": ("generate", "final"),
    "E1": ("generate", "final"),
    "C3": ("text_regression", "final"),
    "R1": ("read_regression", "checkpoint"),
    "Q1": ("scores", "final"),
    "X1": ("staged_export", "final"),
}


def last_checkpoint(train: Path) -> Path:
    """The folder of the training's last checkpoint.

    Raises:
        UserError: the training result holds no adapter where checkpoints.json says.
    """
    final = train / "checkpoints" / read_json(train / "checkpoints.json")["final"]
    if not (final / ADAPTER).is_file():
        raise UserError("no adapter", where=final, expected=ADAPTER)
    return final


def judged_adapters(folders: Mapping[str, Path]) -> dict[str, str]:
    """Gate -> digest of the adapter that its evidence is about, for the gates that measured the trained model.

    folders: data folder of each stage. A gate that does not apply to the run has evidence too, and names it.

    Raises:
        UserError: a stage without its evidence, or evidence that names no adapter.
    """
    found = {}
    for gate, (stage, name) in MEASURED.items():
        path = folders[stage] / "evidence" / f"{gate}.json"
        subject = read_evidence(path)["subject"]
        if name not in subject:
            raise UserError("the evidence names no adapter", where=path, found=", ".join(subject), expected=name)
        found[gate] = subject[name]
    return found


def require_judged(adapter: str, judged: Mapping[str, str]) -> None:
    """Raise UserError unless each of `judged` (gate or checkpoint -> digest) is `adapter`'s digest."""
    others = {name: digest for name, digest in judged.items() if digest != adapter}
    if others:
        name, digest = next(iter(others.items()))
        raise UserError(
            "the adapter to be released is not the one that was judged",
            where=", ".join(others),
            found=f"{adapter[:12]} to be released, {digest[:12]} judged by {name}",
            expected="one adapter",
            fix="run doit, so that every stage measures the last checkpoint; if it recurs, run `pytest tests/build`",
        )


def stated_release(root: Path) -> dict[str, Any]:
    """RELEASE.json of a finished release. root: artifacts/<profile>."""
    return read_json(root / "release" / "data" / RELEASE)


def release_problems(root: Path) -> list[str]:
    """What in a finished release is not what was judged: one line each. root: artifacts/<profile>, with its release."""
    folders = {stage: root / stage / "data" for stage in {stage for stage, _ in MEASURED.values()}}
    try:
        stated = stated_release(root)
        adapter = sha256_file(root / "release" / "data" / "adapter" / ADAPTER)
        staged = folders["staged_export"] / "export"
        require_judged(
            adapter,
            {
                **judged_adapters(folders),
                "RELEASE.json": stated["adapter_sha256"],
                "staged export": sha256_file(staged / "adapter" / ADAPTER),
                stated["step"]: sha256_file(last_checkpoint(folders["train"]) / ADAPTER),
            },
        )
        if Manifest.of(staged).digest != stated["export_manifest_sha256"]:
            return ["staged_export: the folder is not the one that RELEASE.json names"]
    except (UserError, KeyError, OSError) as error:
        return [f"release: {error}"]
    return []
