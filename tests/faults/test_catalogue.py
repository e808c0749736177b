"""The catalogue of faults fits the source as it is, and the drawn tables are of the kept results."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mmpt.build.code import CodeIndex
from mmpt.build.declaration import by_name
from mmpt.build.stage_table import STAGES
from mmpt.gating.scripts import load_scripts
from mmpt.profile import load_profile
from tests.faults import table
from tests.faults.catalogue import FAULTS, Fault
from tests.faults.run import PROFILES, REPO, Project, examine, link_artifacts, parts, put, read_results, stopped

GATES = load_scripts(REPO / "gates")
POLICY = yaml.safe_load((REPO / "gates/policy.yaml").read_text())["gates"]
AREAS = "data codec tokens sequences packing trainable training cache decoding saving resuming kernels"


def test_each_fault_changes_one_place_and_leaves_valid_files():
    for fault in FAULTS:
        text = (REPO / fault.file).read_text()
        assert text.count(fault.old) == 1, f"{fault.id}: {fault.file} has its text {text.count(fault.old)} times"
        mutated = text.replace(fault.old, fault.new)
        assert mutated != text, fault.id
        if fault.file.endswith(".py"):
            ast.parse(mutated)
        elif fault.file.endswith(".yaml"):
            assert yaml.safe_load(mutated) != yaml.safe_load(text), fault.id


def test_faults_are_many_of_every_area_and_named_once():
    assert len(FAULTS) >= 40 and len({fault.id for fault in FAULTS}) == len(FAULTS)
    assert {fault.area for fault in FAULTS} == {*AREAS.split(), "configuration", "imported"}
    assert {corpus for fault in FAULTS for corpus in fault.corpora} == set(PROFILES)
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", fault.thread) for fault in FAULTS if fault.thread)


def test_each_expected_check_is_one_that_blocks():
    for fault in FAULTS:
        if fault.gate:
            gate, check = fault.expects.split(".")
            assert check in GATES[gate].checks, fault.id
            assert POLICY[gate][check]["severity"] == "block", fault.id


def test_every_gate_but_those_of_quality_is_expected_to_stop_a_fault():
    assert set(GATES) - {fault.gate for fault in FAULTS} == {"Q2", "T1"}


def test_a_fault_makes_the_stage_stale_that_its_gate_rests_on():
    index, stages = CodeIndex({"mmpt": REPO / "mmpt"}, REPO / "csrc"), by_name(STAGES)
    files = {name: set(_files(index, stage.body)) for name, stage in stages.items()}
    for fault in FAULTS:
        if fault.file.startswith(("mmpt/", "csrc/")) and fault.file.endswith((".py", ".cpp")):
            stage = GATES[fault.gate].body["stage"] if fault.gate else "release"
            assert any(fault.file in files[name] for name in _above(stages, stage)), fault.id


def _files(index: CodeIndex, body: str) -> list[str]:
    units = [unit.split(":")[0] for unit in index.closure(body)[0]]
    return [unit if unit.startswith("csrc/") else unit.replace(".", "/") + ".py" for unit in units]


def _above(stages, name: str) -> set[str]:
    """The stage and all that it rests on."""
    found, waiting = set(), [name]
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += stages[one].inputs
    return found


@pytest.mark.parametrize("corpus", ["generated", "captions"])
def test_the_profiles_soften_nothing(corpus):
    data, smoke = load_profile(str(REPO / PROFILES[corpus])).data, load_profile("smoke").data
    different = {key for key in data if data[key] != smoke.get(key)} - {"name", "description"}
    assert different <= {"corpus"} and not data.get("gates")


FAULT = Fault("x", "data", "x", "file.txt", "old", "new", "A1.digests")


@pytest.mark.parametrize(
    "seen, said",
    [
        ({"failing": ["A1.digests", "B1.falls"]}, "expected"),
        ({"failing": ["B1.falls"]}, "other"),
        ({"refused": ["base: no"]}, "other"),
        ({"broke": ["base: no"]}, "crash"),
        ({}, "none"),
    ],
)
def test_a_fault_is_stopped_by_the_check_that_was_named(seen, said):
    assert stopped(FAULT, {"failing": [], "refused": [], "broke": [], **seen}) == said


def test_a_refusal_is_expected_of_its_stage_and_in_its_words():
    fault = replace(FAULT, expects="shards: another token space")
    seen = {"failing": [], "broke": []}
    assert stopped(fault, {**seen, "refused": ["shards: a/b: written with another token space; .."]}) == "expected"
    assert stopped(fault, {**seen, "refused": ["codecs: another token space"]}) == "other"
    assert stopped(fault, {**seen, "refused": ["shards: half a file"]}) == "other"


def test_the_change_is_refused_where_its_text_is_not_there_once(tmp_path):
    (tmp_path / "file.txt").write_text("old old")
    with pytest.raises(ValueError, match="2 times"):
        put(FAULT, tmp_path)


def test_a_mutant_shares_data_alone_with_the_clean_run(tmp_path):
    clean = tmp_path / "clean/run/corpus"
    (clean / "data").mkdir(parents=True)
    for name in ("data/a.txt", "receipt.json"):
        (clean / name).write_text("clean")
    link_artifacts(tmp_path / "clean", tmp_path / "mutant")
    mutant = tmp_path / "mutant/run/corpus"
    (mutant / "receipt.json").write_text("mutant")
    assert (clean / "receipt.json").read_text() == "clean"
    assert (mutant / "data/a.txt").samefile(clean / "data/a.txt")


class Said(Project):
    """A project whose doit prints what the test sets."""

    def doit(self, *words):
        gate = '{"gate": "A1", "checks": [{"id": "digests", "severity": "block", "status": "fail"}]}'
        return (10, f'{{"result": {{"decision": "NO-GO", "gates": [{gate}]}}}}') if words[:1] == ("gates",) else (0, "")


def test_what_failed_before_stops_nothing(tmp_path):
    project = Said(tmp_path, "generated")
    assert examine(FAULT, project, [])["stopped"] == "expected"
    assert examine(FAULT, project, ["A1.digests"])["stopped"] == "none"


class Refused(Said):
    """A project one stage of which is refused."""

    def doit(self, *words):
        refusal = "shards           REFUSED: a/b: written with another token space"
        return super().doit(*words) if words[:1] == ("gates",) else (2, refusal)


def test_a_fault_that_a_stage_refuses_needs_no_gate(tmp_path):
    fault = replace(FAULT, expects="shards: another token space")
    seen = examine(fault, Refused(tmp_path, "generated"), ["A1.digests"])
    assert (seen["stopped"], seen["exit"]) == ("expected", 2)


def test_the_tables_are_drawn_from_the_results():
    results, readme = read_results(), table.README.read_text()
    assert table.PAGE.read_text() == table.page(results), "run python -m tests.faults.table"
    assert readme == table.drawn(readme, results), "run python -m tests.faults.table"


def test_results_are_of_parts_of_the_catalogue():
    known = {f"{fault.id} {corpus}" for fault, corpus in parts()}
    assert set(read_results()) <= known


def test_the_page_is_small_enough_to_read():
    assert Path(table.PAGE).stat().st_size < 40_000
