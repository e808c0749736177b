"""Results are found by fingerprint in other profiles of a project and in a store, and taken whole or not at all."""

import json
import os
import shutil

from mmpt.store.canonical import read_json
from tests.build.conftest import Tiny

TAKEN = ["count", "double", "slow"]


def profile(project, name: str, *changes: tuple[str, str]) -> str:
    """Another profile of a tiny project; the word that chooses it."""
    text = (project.folder / "smoke.yaml").read_text().replace("name: smoke", f"name: {name}")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (project.folder / f"{name}.yaml").write_text(text)
    return f"profile={name}"


def with_store(project, store) -> None:
    project.edit("smoke.yaml", "seed: 1", f"seed: 1\nstore: {store}")


def sources(outcome) -> dict[str, str]:
    """Stage -> where it was taken from, as the run tells it."""
    lines = [line for line in outcome.text.splitlines() if " taken from " in line]
    return {line.split()[0]: line.split(" taken from ", 1)[1] for line in lines}


def test_another_profile_takes_what_is_the_same_and_builds_the_rest(built):
    word = profile(built, "other", ("how: plain", "how: fancy"), ("bonus: 0", "bonus: 5"))
    planned = built.doit("plan", word).text
    assert "its result is in artifacts/smoke and is taken from there" in planned
    outcome = built.doit(word)
    assert outcome.code == 0 and sources(outcome) == dict.fromkeys(TAKEN, "artifacts/smoke"), outcome
    assert all(f"{name:<16} built in" in outcome.text for name in ("side", "render"))
    other = built.root.parent / "other"
    for name in TAKEN:
        receipt = read_json(other / name / "receipt.json")["predicate"]
        assert receipt["runDetails"]["taken"]["from"] == "artifacts/smoke"
        assert receipt["fingerprint"] == read_json(built.root / name / "receipt.json")["predicate"]["fingerprint"]
    assert os.path.samefile(other / "slow/data/steps.json", built.root / "slow/data/steps.json"), "linked"
    assert built.doit("verify", "--deep", word).code == 0
    assert (built.doit(word).ran, built.doit().ran) == ([], [])


def test_an_edit_of_a_shared_file_is_found_in_both_profiles_and_never_taken(built):
    word = profile(built, "other")
    assert built.doit(word).code == 0
    (built.root / "slow/data/steps.json").write_text("[1, 2, 3]")  # in place: both names of the file
    for words in ([word], []):
        outcome = built.doit(*words)
        assert "!! slow/data/steps.json was edited" in outcome.text and "slow" in outcome.ran, outcome
    assert read_json(built.root / "slow/data/steps.json") == [0, 1, 4]


def test_a_damaged_result_is_not_taken(built):
    word = profile(built, "other")
    (built.root / "slow/data/steps.json").write_text("[]")
    outcome = built.doit(word)
    assert outcome.code == 0 and "slow" not in sources(outcome) and "slow             built in" in outcome.text, outcome


def test_what_a_gate_holds_back_is_not_taken_either(built):
    word = profile(built, "other")
    built.ask_for(1000)
    assert built.doit("count", "double", word).code == 10
    outcome = built.doit("-s", "slow", word)
    assert "BLOCKED" in outcome.text and not (built.root.parent / "other/slow").exists(), outcome


def test_asked_for_with_a_the_body_runs(built):
    word = profile(built, "other")
    outcome = built.doit("-a", "count", word)
    assert "count            built in" in outcome.text and "count" not in sources(outcome), outcome


def test_a_store_gives_another_project_what_one_has_built(tiny, tmp_path):
    store = tmp_path / "store"
    with_store(tiny, store)
    assert tiny.doit().code == 0
    second = Tiny(tmp_path / "elsewhere" / "project")
    with_store(second, store)
    second.edit("smoke.yaml", "how: plain", "how: fancy")
    outcome = second.doit()
    assert outcome.code == 0 and sources(outcome) == dict.fromkeys([*TAKEN, "render"], str(store)), outcome
    assert read_json(second.root / "slow/receipt.json")["predicate"]["runDetails"]["taken"]["from"] == str(store)
    assert second.doit("verify", "--deep").code == 0


def test_a_damaged_entry_of_the_store_is_replaced(tiny, tmp_path):
    with_store(tiny, tmp_path / "store")
    assert tiny.doit("count").code in (0, 20)
    [entry] = (tmp_path / "store/count").iterdir()
    (entry / "data/numbers.json").unlink()
    (entry / "data/numbers.json").write_text("[]")
    shutil.rmtree(tiny.root)
    assert "count            built in" in tiny.doit("count").text
    assert json.loads((entry / "data/numbers.json").read_text()) == [0, 1, 2, 3]


def test_two_runs_at_once_share_a_store(tiny, tmp_path):
    with_store(tiny, tmp_path / "store")
    words = [profile(tiny, name) for name in ("one", "two")]
    runs = [tiny.start(word) for word in words]
    texts = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], texts
    assert {len(list(path.iterdir())) for path in (tmp_path / "store").glob("[!.]*")} == {1}
    assert list((tmp_path / "store").glob(".*")) == []
    assert [tiny.doit("verify", word).code for word in words] == [0, 0]


def test_prune_says_first_and_removes_only_what_no_run_holds(tiny, tmp_path):
    with_store(tiny, tmp_path / "store")
    assert tiny.doit().code == 0
    held = sorted((tmp_path / "store").glob("*/*"))
    tiny.edit("smoke.yaml", "how: plain", "how: fancy")
    assert tiny.doit().code == 0
    [left] = [path for path in held if path.parent.name == "side"]
    days = ("store", "--prune", "--days", "0")
    assert "0 results, 0 bytes removed" in tiny.doit("store", "--prune").text, "used today"
    assert "1 results" in tiny.doit(*days, "-n").text and left.exists()
    assert "1 results" in tiny.doit(*days).text and not left.exists()
    assert all(path.exists() for path in held if path != left)
    assert "profile names no store" in (tiny.edit("smoke.yaml", "store:", "#") or tiny.doit("store")).text


def test_a_body_is_given_whole_results_that_its_own_code_made_of_other_inputs(built):
    word, log = profile(built, "other", ("n: 4", "n: 5")), "artifacts/other/logs/slow.log"

    def given() -> str:
        shutil.rmtree(built.root.parent / "other" / "slow", ignore_errors=True)
        assert built.doit("slow", word).code == 0
        return (built.folder / log).read_text().splitlines()[0]

    assert given() == f"earlier: ['{built.root / 'slow' / 'data'}']"
    assert built.doit("-a", "slow", word).code == 0
    assert (built.folder / log).read_text().startswith("earlier: []")
    (built.root / "slow" / "data" / "steps.json").write_text("[]")
    assert given() == "earlier: []", "it is not what was published"
