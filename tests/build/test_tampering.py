"""Whatever is changed in a published file, `doit verify` names that file, and no other.

The bits are flipped at random: here in a tiny project, a thousand times each in it and in the quick pipeline
under `-m slow`. The other kinds of damage are tried on every file.
"""

import json
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mmpt.build.artifact_index import NOT_PUBLISHED
from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.build.verification import verify
from mmpt.gating.history import append_change, check_history, read_history
from mmpt.profile import Profile, load_profile
from mmpt.store.canonical import read_json, read_sealed, write_json, write_sealed
from mmpt.store.errors import Edited, UserError
from tests.pipeline.test_pipeline import LEFT_OUT

REPO = Path(__file__).resolve().parents[2]
FLIPS, MORE_FLIPS = 60, 1000


def open_tiny(folder: Path) -> Project:
    stages = runpy.run_path(str(folder / "bodies" / "table.py"))["STAGES"]
    profile = Profile(yaml.safe_load((folder / "smoke.yaml").read_text()), folder / "smoke.yaml")
    return Project(stages, profile, folder, ("bodies", "mmpt"))


@pytest.fixture
def project(built) -> Project:
    return open_tiny(built.folder)


def published(root: Path) -> list[str]:
    """Every file of the artifacts, without asking the code under test which count."""
    found = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] not in NOT_PUBLISHED)


def named(project: Project, deep: bool = False) -> set[str]:
    return {line.split(": ")[0] for _, found in verify(project, deep=deep) for line in found}


def flip_everywhere(project: Project, flips: int, seed: int) -> tuple[int, int]:
    """Flip one bit of one byte of one file, verify, and put it back; (how often, over how many files)."""
    draw, files = random.Random(seed), published(project.root)
    files = [name for name in files if (project.root / name).stat().st_size]
    assert named(project) == set()
    for _ in range(flips):
        name = draw.choice(files)
        path = project.root / name
        data = path.read_bytes()
        at, bit = draw.randrange(len(data)), 1 << draw.randrange(8)
        path.write_bytes(data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        assert named(project) == {name}, f"byte {at} of {name}, bit {bit}"
        path.write_bytes(data)
    assert named(project) == set()
    return flips, len(files)


def test_one_flipped_bit_is_named(project):
    flips, files = flip_everywhere(project, FLIPS, seed=3)
    assert flips == FLIPS and files > 40


@pytest.mark.slow  # twenty seconds
def test_one_flipped_bit_is_named_a_thousand_times_out_of_a_thousand(project):
    flips, files = flip_everywhere(project, MORE_FLIPS, seed=4)
    print(f"{flips} flips in {files} files, each named")
    assert flips == MORE_FLIPS and files > 40


@pytest.mark.slow  # builds the quick pipeline (a minute) and reads all of it a thousand times
def test_one_flipped_bit_is_named_in_the_quick_pipeline(tmp_path):
    shutil.copytree(REPO, tmp_path / "project", ignore=LEFT_OUT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "project")}
    words = [sys.executable, "-m", "doit", "profile=tests/pipeline/quick.yaml"]
    subprocess.run(words, cwd=tmp_path / "project", env=environment, stdout=subprocess.DEVNULL)
    profile = load_profile(str(tmp_path / "project" / "tests" / "pipeline" / "quick.yaml"))
    project = Project(STAGES, profile, tmp_path / "project")
    flips, files = flip_everywhere(project, MORE_FLIPS, seed=5)
    print(f"{flips} flips in {files} files, each named")
    assert flips == MORE_FLIPS


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_the_last_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add_a_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


@pytest.mark.parametrize("damage", [delete, empty, cut_the_last_byte, add_a_byte])
def test_each_damage_to_each_file_is_named(project, damage):
    for name in published(project.root):
        path = project.root / name
        data = path.read_bytes()
        damage(path)
        assert named(project) == {name}, name
        path.write_bytes(data)
    assert named(project) == set()


def test_an_added_file_is_named_wherever_it_is_put(project):
    folders = {(project.root / name).parent for name in published(project.root)}
    for folder in sorted(folders | {project.root}):
        (folder / "added.json").write_text("{}")
        assert named(project) == {(folder / "added.json").relative_to(project.root).as_posix()}
        (folder / "added.json").unlink()


def test_a_stage_taken_away_is_missed(project):
    shutil.rmtree(project.root / "side")
    assert named(project) == {"side/MANIFEST.sha256", "side/receipt.json"}


def test_the_same_value_in_another_spelling_is_an_edit(tmp_path):
    path = tmp_path / "x.json"
    write_sealed(path, {"b": 1.0, "a": ["ü"]})
    assert read_sealed(path) == {"b": 1.0, "a": ["ü"]}
    path.write_text(json.dumps(read_json(path), sort_keys=True, indent=1) + "\n")  # ü as \u00fc
    with pytest.raises(Edited):
        read_sealed(path)
    write_json(path, {"a": 1})
    with pytest.raises(UserError, match="no digest"):
        read_sealed(path)


def change(gate: str, old: str, new: str) -> dict[str, str]:
    return {"gate": gate, "from": old, "to": new, "verdict": f"{gate} {new}"}


@pytest.fixture
def history(tmp_path) -> Path:
    for row in (change("S1", "", "GO"), change("S2", "", "GO"), change("S1", "GO", "NO_GO")):
        append_change(tmp_path, row)
    assert check_history(tmp_path) == []
    return tmp_path / "gates" / "history.jsonl"


@pytest.mark.parametrize(
    "edit, said",
    [
        (lambda lines: [lines[0], lines[2]], "a line before line 2 was taken out or put in"),
        (lambda lines: [lines[1], lines[0], lines[2]], "a line before line 1 was taken out or put in"),
        (lambda lines: [lines[0], lines[0], *lines[1:]], "a line before line 2 was taken out or put in"),
        (lambda lines: [lines[0].replace(b"GO", b"OG"), *lines[1:]], "line 1 was edited"),
        (lambda lines: [*lines[:2], lines[2].replace(b":", b": ")], "line 3 was edited"),
        (lambda lines: [*lines[:2], lines[2][:-9]], "its last line is cut off"),
    ],
)
def test_the_chain_of_the_history_tells_where_it_broke(history, edit, said):
    history.write_bytes(b"".join(edit(history.read_bytes().splitlines(keepends=True))))
    assert said in check_history(history.parents[1])


def test_a_change_that_a_killed_run_had_written_is_not_written_twice(history):
    append_change(history.parents[1], change("S1", "GO", "NO_GO"))
    assert len(read_history(history.parents[1])) == 3
    append_change(history.parents[1], change("S1", "NO_GO", "GO"))
    append_change(history.parents[1], change("S1", "GO", "NO_GO"))
    assert len(read_history(history.parents[1])) == 5 and check_history(history.parents[1]) == []


def test_sha256sum_checks_the_index_without_us(built):
    subprocess.run(["sha256sum", "--strict", "-c", "INDEX.sha256"], cwd=built.root, check=True)


def test_deep_finds_what_was_sealed_again(project, built):
    """A forger who seals the file anew passes `verify`; `--deep` derives decision and report again."""
    for name, key in (("decision.json", "profile"), ("report/drawn.json", "key")):
        path = project.root / name
        before = path.read_bytes()
        write_sealed(path, {**read_sealed(path), key: "0" * 64})
        assert built.doit("verify").code == 0
        path.write_bytes(before)
    path = project.root / "decision.json"
    write_sealed(path, {**read_sealed(path), "profile": "other"})
    assert "decision.json: not what evidence and policy give: profile" in built.doit("verify", "--deep").text


def test_deep_finds_a_report_drawn_by_hand(built):
    page, drawn = built.root / "report" / "index.html", built.root / "report" / "drawn.json"
    page.write_text(page.read_text().replace("GO", "OK"))
    known = read_sealed(drawn)
    known["files"]["index.html"] = subprocess.check_output(["sha256sum", page], text=True).split()[0]
    write_sealed(drawn, known)
    assert built.doit("verify").code == 0
    outcome = built.doit("verify", "--deep")
    assert outcome.code == 1 and "report/index.html: not what is drawn" in outcome.text
