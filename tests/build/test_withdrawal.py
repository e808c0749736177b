"""A GO does not outlive its reason: not a started run, not a NO-GO, not another file of the same name."""

from __future__ import annotations

import json
import shutil

import pytest

from mmpt.store.canonical import read_json, read_sealed

RELEASE = """
STAGES += (
    Stage("release", "handed over", "bodies.stages:hand_over", inputs=("slow",), slice=("name",), needs=("S1",),
          outputs=(Output("RELEASE.json"),), granted=True),
)
"""
HAND_OVER = """

def hand_over(ctx):
    write_json(ctx.out / "RELEASE.json", {"decision": ctx.granted})
"""


@pytest.fixture
def released(built):
    """The tiny project with a stage that hands its result over, run to GO."""
    for name, more in (("bodies/table.py", RELEASE), ("bodies/stages.py", HAND_OVER)):
        path = built.folder / name
        path.write_text(path.read_text() + more)
    assert built.doit().code == 0
    assert (built.root / "release" / "data" / "RELEASE.json").is_file()
    return built


def pages(project) -> set[str]:
    return {path.name for path in (project.root / "report").iterdir()}


def test_a_release_says_what_it_was_granted_on(released):
    said = read_json(released.root / "release" / "data" / "RELEASE.json")["decision"]
    decision = read_sealed(released.root / "decision.json")
    assert said["headline"] == "GO" and said["softenings"] == said["waivers"] == []
    assert said["policy_sha256"] == decision["digests"]["policy"]
    assert said["profile_sha256"] == decision["digests"]["profile"]
    assert released.doit("verify", "--deep").code == 0


def test_a_release_is_made_again_where_policy_or_softenings_change(released):
    text = (released.folder / "smoke.yaml").read_text()
    entry = "gates: [{gate: B1, check: falls, threshold: 0.05, reason: a short trial}]\n"
    (released.folder / "smoke.yaml").write_text(text + entry)
    assert "release" in released.doit("verify", "--deep").text, "verify --deep knows it too"
    outcome = released.doit()
    assert (outcome.code, outcome.ran) == (0, ["release"])
    said = read_json(released.root / "release" / "data" / "RELEASE.json")["decision"]
    assert said["headline"] == "GO (softened: B1.falls by smoke.yaml: a short trial)"
    assert [one["to"] for one in said["softenings"]] == ["0.05"]


def test_a_no_go_takes_the_release_away(released):
    released.ask_for(99)
    assert released.doit().code == 10
    assert not (released.root / "release").exists()
    assert released.doit("verify", "--deep").code == 0
    released.ask_for(1)
    outcome = released.doit()
    assert (outcome.code, outcome.ran) == (0, ["release"])


def test_what_cannot_be_decided_any_more_takes_the_release_away(released):
    released.edit("smoke.yaml", "count: {n: 4}", "count: {n: 5}")
    assert released.doit("decide").code == 20
    assert not (released.root / "release").exists()


def test_a_release_without_a_go_is_named_by_verify(released):
    shutil.copytree(released.root / "release", released.folder / "kept")
    released.ask_for(99)
    assert released.doit("decide").code == 10 and not (released.root / "release").exists()
    shutil.copytree(released.folder / "kept", released.root / "release")
    assert released.doit("verify").code == 1
    assert "release: it is there, and the decision says NO-GO" in released.doit("verify").text


def test_a_killed_run_leaves_no_go_from_before(built):
    """The decision, its report and the release go before the first stage starts."""
    assert read_sealed(built.root / "decision.json")["decision"] == "GO" and "report.txt" in pages(built)
    shutil.rmtree(built.root / "logs")
    built.kill_in_the_middle()
    assert not (built.root / "decision.json").exists()
    assert pages(built) == {"runs.jsonl"}
    assert built.doit("verify").code == 0, "and nothing is missed that was taken away"
    assert built.doit().code == 0 and "report.txt" in pages(built)


def test_a_second_file_of_one_name_is_refused_by_every_command(built):
    other = built.folder / "other.yaml"
    other.write_text((built.folder / "smoke.yaml").read_text() + "gates: []\n")
    for words in ((), ("decide",), ("gates",), ("plan",), ("report",), ("verify",)):
        outcome = built.doit(*words, "profile=other")
        assert outcome.code == 2, outcome
        said = "other.yaml: name: the name of this profile belongs to the run of another file; found smoke"
        assert said in outcome.text
    assert built.doit().code == 0
    (built.folder / "smoke.yaml").rename(built.folder / "moved.yaml")
    assert built.doit("gates", "profile=moved").code == 0, "a file may move"
    assert built.doit("decide", "profile=moved").code == 0
    assert json.loads((built.root / "profile.json").read_text())["file"] == "moved.yaml"
