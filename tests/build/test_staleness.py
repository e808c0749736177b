"""What makes a stage run again, what does not, and what is said about it."""

import os
import shutil

import pytest

from mmpt.store.canonical import read_json, read_sealed, write_sealed
from tests.build.forked_doit import SOON
from tests.build.test_tampering import named, open_tiny

ALL = ["count", "double", "slow", "side", "render"]


# Changes to a project in which everything is built. Those to outputs are made in every stage at once, to see
# that each is looked at; `test_a_touched_result_is_named_loudly_and_made_again` makes them in one.


def same_mtime(path, text):
    """Write what has the size and the modification time of what was there."""
    found = path.stat()
    path.write_text(text)
    assert path.stat().st_size == found.st_size
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


def each(built, name):
    return [built.root / stage / name for stage in ALL]


def touch_code(built):
    os.utime(built.folder / "bodies" / "arithmetic.py")


def touch_media(built):
    os.utime(built.folder / "media" / "a.txt")


def touch_outputs(built):
    for folder in each(built, "."):
        for path in folder.rglob("*"):
            os.utime(path)


def mtimes_in_the_future(built):
    for path in built.folder.rglob("*"):
        os.utime(path, (4e9, 4e9))


def mtimes_at_the_epoch(built):
    for path in built.folder.rglob("*"):
        os.utime(path, (0, 0))


def comment(built):
    built.edit("bodies/arithmetic.py", "    return", '    """Sum."""\n\n    # of two\n    return')


def layout(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "\n\nFACTOR   =   (1)\n")


def helper_same_mtime(built):
    same_mtime(built.folder / "bodies" / "scale.py", "FACTOR = 3\n")


def helper_same_result(built):
    built.edit("bodies/arithmetic.py", "return a + b", "return b + a")


def body(built):
    built.edit("bodies/stages.py", 'ctx.profile["score.bonus"])', 'ctx.profile["score.bonus"] + 1)')


def key_in_slice(built):
    built.edit("smoke.yaml", "bonus: 0", "bonus: 5")


def key_of_the_first(built):
    built.edit("smoke.yaml", "n: 4", "n: 5")


def key_that_changes_little(built):
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")


def key_out_of_slice(built):
    built.edit("smoke.yaml", "by: nobody", "by: anybody")


def key_removed(built):
    built.edit("smoke.yaml", "{how: plain, bytes: 0}", "{how: plain}")


def key_added_in_slice(built):
    built.edit("smoke.yaml", "{bonus: 0}", "{bonus: 0, more: 1}")


def key_added_out_of_slice(built):
    built.edit("smoke.yaml", "unread: {by: nobody}", "unread: {by: nobody}\nalso: {unread: 1}")


def seed(built):
    built.edit("smoke.yaml", "seed: 1", "seed: 2")


def threads(built):
    built.edit("smoke.yaml", "threads: 1", "threads: 2")


def package_version(built):
    built.edit("sidepack-1.0.dist-info/METADATA", "Version: 1.0", "Version: 1.1")


def medium_same_mtime(built):
    same_mtime(built.folder / "media" / "a.txt", "A medium")


def medium_added(built):
    (built.folder / "media" / "b.txt").write_text("one more")


def medium_behind_a_link(built):
    (built.folder / "more").mkdir()
    (built.folder / "more" / "b.txt").write_text("one more")
    (built.folder / "media" / "linked").symlink_to(built.folder / "more")


def outputs_edited_same_mtime(built):
    for folder in each(built, "data"):
        path = next(folder.glob("*.json"))
        same_mtime(path, path.read_text()[:-1] + " ")


def data_folders_deleted(built):
    for folder in each(built, "data"):
        shutil.rmtree(folder)


def manifests_deleted(built):
    for path in each(built, "MANIFEST.sha256"):
        path.unlink()


def stages_deleted(built):
    for path in each(built, "."):
        shutil.rmtree(path)


def policy_wording(built):
    built.edit("gates/s1_manifest.py", "too little", "not enough")


def threshold(built):
    built.ask_for(99)


def waiver(built, expires=SOON):
    built.ask_for(99)
    words = ("--reason", "n=4 is a known gap", "--owner", "me", "--expires", expires)
    assert built.doit("waive", "S1", *words).code == 0


def waiver_expired(built):
    waiver(built)
    built.edit("gates/waivers.yaml", SOON, "2026-01-01")


def verdict_edited(built):
    built.edit("artifacts/smoke/gates/S1/verdict.json", '"verdict": "GO"', '"verdict": "NO_GO"')


def verdicts_deleted(built):
    shutil.rmtree(built.root / "gates")


def decision_edited(built):
    built.edit("artifacts/smoke/decision.json", '"decision": "GO"', '"decision": "NO-GO"')


def state_deleted(built):
    shutil.rmtree(built.root / ".state")


def state_damaged(built):
    for path in (built.root / ".state").rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"0", b"1"))


def doit_database(built):
    (built.folder / ".doit.db").write_text("rubbish")


def cloned(built):
    clone = built.folder.with_name("elsewhere")
    shutil.copytree(built.folder, clone, symlinks=True)  # new inodes and times too
    shutil.rmtree(built.folder)
    old, built.folder = str(built.folder), clone
    built.edit("smoke.yaml", old, str(clone))


def moved(built):
    place = built.folder.with_name("elsewhere")
    built.folder.rename(place)
    old, built.folder = str(built.folder), place
    built.edit("smoke.yaml", old, str(place))


# R: runs, .: stays fresh; the stages in their order; the exit code of the run
MATRIX = [
    #                            count
    #                            |double
    #                            ||slow
    #                            |||side
    #                            ||||render
    (touch_code, ".....", 0),
    (touch_media, ".....", 0),
    (touch_outputs, ".....", 0),
    (mtimes_in_the_future, ".....", 0),
    (mtimes_at_the_epoch, ".....", 0),
    (comment, ".....", 0),
    (layout, ".....", 0),
    (helper_same_mtime, ".RR..", 0),  # what slow writes does not depend on what it reads
    (helper_same_result, ".R...", 0),  # early cutoff: equal output, nothing downstream
    (body, "....R", 0),  # the other bodies of the module are not touched
    (key_in_slice, "....R", 0),
    (key_of_the_first, "RRRR.", 0),
    (key_that_changes_little, "..R..", 0),
    (key_out_of_slice, ".....", 0),
    (key_removed, "...R.", 0),
    (key_added_in_slice, "....R", 0),
    (key_added_out_of_slice, ".....", 0),
    (seed, "RRRRR", 0),
    (threads, "RRRRR", 0),
    (package_version, "...R.", 0),
    (medium_same_mtime, "R....", 0),
    (medium_added, "R....", 0),
    (medium_behind_a_link, "R....", 0),
    (outputs_edited_same_mtime, "RRRRR", 0),
    (data_folders_deleted, "RRRRR", 0),
    (manifests_deleted, "RRRRR", 0),
    (stages_deleted, "RRRRR", 0),
    (policy_wording, ".....", 0),
    (threshold, ".....", 10),
    (waiver, ".....", 0),
    (waiver_expired, ".....", 10),
    (verdict_edited, ".....", 0),
    (verdicts_deleted, ".....", 0),
    (decision_edited, ".....", 0),
    (state_deleted, ".....", 0),
    (state_damaged, ".....", 0),
    (doit_database, ".....", 0),
    (cloned, ".....", 0),
    (moved, ".....", 0),
]


@pytest.mark.parametrize("change, expected, code", MATRIX, ids=[row[0].__name__ for row in MATRIX])
def test_what_runs_after_a_change(built, change, expected, code):
    change(built)
    outcome = built.doit()
    ran = "".join("R" if stage in outcome.ran else "." for stage in ALL)
    assert (ran, outcome.code) == (expected, code), outcome
    assert named(open_tiny(built.folder)) == set(), "and what it leaves verifies"


@pytest.mark.parametrize(
    "damage, said",
    [
        (
            lambda root: (root / "double/data/numbers.json").write_text("[ 0, 2, 4, 6]"),
            "double/data/numbers.json was edited",
        ),
        (lambda root: (root / "double/data/numbers.json").unlink(), "double/data/numbers.json is missing"),
        (
            lambda root: (root / "double/data/more.json").write_text("1"),
            "double/data/more.json was not published",
        ),
        (lambda root: (root / "double/MANIFEST.sha256").write_text(""), "double/MANIFEST.sha256 was edited"),
        (lambda root: (root / "double/receipt.json").write_text("{}"), "double/receipt.json is damaged"),
        (
            lambda root: (root / "double/receipt.json").unlink(),
            "double/receipt.json is damaged: no such file",
        ),
    ],
)
def test_a_touched_result_is_named_loudly_and_made_again(built, damage, said):
    before = (built.root / "double/MANIFEST.sha256").read_text()
    damage(built.root)
    outcome = built.doit()
    assert any(line.startswith(f"!! {said}") for line in outcome.text.splitlines()), outcome
    assert (outcome.code, outcome.ran) == (0, ["double"])
    assert (built.root / "double/MANIFEST.sha256").read_text() == before


def test_verify_finds_one_changed_byte_and_passes_after_the_repair(built):
    assert built.doit("verify", "--deep").code == 0
    (built.root / "render/data/score.json").write_text("6\n")
    outcome = built.doit("verify")
    assert outcome.code == 1 and "data/score.json: edited" in outcome.text
    assert "render/data/score.json was edited" in built.doit("why", "render").text
    built.doit("render")
    assert built.doit("verify", "--deep").code == 0


def test_deep_verification_finds_a_verdict_written_by_hand(built):
    path = built.root / "gates/S1/verdict.json"
    write_sealed(path, {**read_sealed(path), "verdict": "NO_GO"})  # by somebody who knows how it is sealed
    assert built.doit("verify").code == 0
    outcome = built.doit("verify", "--deep")
    assert outcome.code == 1, outcome
    assert "gates/S1/verdict.json: says NO_GO, evidence and policy say GO" in outcome.text


def test_an_edited_receipt_cannot_vouch_for_itself(built):
    path = built.root / "render/receipt.json"
    path.write_text(
        path.read_text().replace('"score":', '"score" :').replace(': "1"', ': "2"').replace('"seed": 1', '"seed": 2')
    )
    assert "render/receipt.json was edited" in built.doit("why", "render").text


def test_why_follows_the_cascade_to_the_first_cause(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "FACTOR = 2")
    text = built.doit("why", "render").text
    assert "render: may run" in text and "because of slow" in text and "because of double" in text
    assert "code bodies.scale: " in text and " -> " in text


def test_why_points_only_at_what_it_has_explained(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "FACTOR = 2")
    for stage in ("render", "side", "slow"):
        lines = built.doit("why", stage).text.splitlines()
        for at, line in enumerate(lines):
            if line.endswith("(explained above)"):
                name = line.split("because of ")[1].split()[0]
                assert any(f"because of {name}: " in one or one.startswith(f"{name}: ") for one in lines[:at])


def test_plan_says_what_becomes_of_an_interrupted_run(tiny):
    """Its work is used by a run with the same settings, code and inputs, and by no other."""
    assert "interrupted" not in tiny.doit("plan").text
    tiny.kill_in_the_middle()
    for command in (("plan",), ("why", "slow")):
        assert "goes on from what an interrupted run left" in tiny.doit(*command).text
    (work,) = (tiny.root / ".staging").glob("work-slow-*/")
    for step, said in (
        (0, "from its beginning: an interrupted run had saved nothing yet"),
        (3, "goes on from step 3, where an interrupted run saved"),
    ):  # as a training stage leaves it
        (work / f"run/steps/step_{step}").mkdir(parents=True)
        (work / f"run/steps/step_{step}/trainer_state.safetensors").touch()
        assert said in tiny.doit("plan").text
    assert f"runs: never built; {said}" in tiny.doit("slow").text
    tiny.edit("smoke.yaml", "steps: 8", "steps: 9")
    (tiny.root / ".staging/work-slow-0123/run").mkdir(parents=True)
    for command in (("plan",), ("why", "slow")):
        assert "from its beginning: what an interrupted run left" in tiny.doit(*command).text


def test_plan_says_runs_may_run_and_fresh(built):
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")
    lines = dict(line.split(maxsplit=1) for line in built.doit("plan").text.splitlines() if not line.startswith(" "))
    assert lines.pop("time").endswith(" for one stage after another")  # tests/build/test_stage_times.py
    assert {name: line.partition(";")[0] for name, line in lines.items()} == {
        "count": "fresh",
        "double": "fresh",
        "slow": "runs",
        "side": "fresh",
        "render": "may run",
    }
    assert built.doit("plan").ran == []


def test_a_key_that_was_removed_or_added_counts(built):
    built.edit("smoke.yaml", "{how: plain, bytes: 0}", "{how: plain}")
    assert "profile key side.bytes: 0 -> (none)" in built.doit("why", "side").text


def test_receipts_separate_what_is_deterministic(built):
    def receipt():
        return read_json(built.root / "slow/receipt.json")

    first = receipt()
    assert built.doit("-a", "slow").ran == ["slow"]
    second = receipt()
    assert first["predicate"]["runDetails"] != second["predicate"]["runDetails"]
    assert {**first["predicate"], "runDetails": 0} == {**second["predicate"], "runDetails": 0}
    assert first["subject"] == second["subject"]
    info = {"process", "seconds", "peak_memory_mib", "launcher"}
    assert second["predicate"]["runDetails"]["info"].keys() == info
