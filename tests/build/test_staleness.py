"""What makes a stage run again, what does not, and what is said about it."""

import os
import shutil

import pytest

from mmpt.store.canonical import read_json, read_sealed, write_sealed

ALL = ["count", "double", "slow", "side", "render"]


def test_everything_runs_once_and_then_nothing(tiny):
    first, second = tiny.doit(), tiny.doit()
    assert (first.code, first.ran) == (0, ALL), first
    assert (second.code, second.ran) == (0, []), second
    assert first.text.splitlines()[-1] == second.text.splitlines()[-1] == "GO"


def touch(built):
    os.utime(built.folder / "bodies" / "arithmetic.py")


def comment(built):
    built.edit("bodies/arithmetic.py", "    return", '    """Sum."""\n\n    # of two\n    return')


def layout(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "\n\nFACTOR   =   (1)\n")


def policy_wording(built):
    built.edit("gates/policy.yaml", "too little", "not enough")


def threshold(built):
    built.ask_for(2)


def unread_key(built):
    built.edit("smoke.yaml", "by: nobody", "by: anybody")


def state_deleted(built):
    shutil.rmtree(built.root / ".state")


def doit_database(built):
    (built.folder / ".doit.db").write_text("rubbish")


@pytest.mark.parametrize(
    "change", [touch, comment, layout, policy_wording, threshold, unread_key, state_deleted, doit_database]
)
def test_nothing_runs_after(built, change):
    change(built)
    outcome = built.doit()
    assert (outcome.code, outcome.ran) == (0, []), outcome


def helper_code(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "FACTOR = 3")


def helper_code_same_result(built):
    built.edit("bodies/arithmetic.py", "return a + b", "return b + a")


def body_code(built):
    built.edit("bodies/stages.py", 'ctx.profile["score.bonus"])', 'ctx.profile["score.bonus"] + 1)')


def key_in_slice(built):
    built.edit("smoke.yaml", "bonus: 0", "bonus: 5")


def key_that_changes_little(built):
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")


def medium(built):
    (built.folder / "media" / "a.txt").write_text("another medium")


def more_numbers(built):
    built.edit("smoke.yaml", "n: 4", "n: 5")


def seed(built):
    built.edit("smoke.yaml", "seed: 1", "seed: 2")


@pytest.mark.parametrize(
    "change, ran",
    [
        (
            helper_code,
            ["double", "slow"],
        ),  # what slow writes does not depend on its input, so score stays fresh
        (helper_code_same_result, ["double"]),  # early cutoff: equal output, nothing downstream
        (body_code, ["render"]),  # the other bodies of the same module are not touched
        (key_in_slice, ["render"]),
        (key_that_changes_little, ["slow"]),
        (medium, ["count"]),
        (more_numbers, ["count", "double", "slow", "side"]),
        (seed, ALL),
    ],
)
def test_exactly_these_run_after(built, change, ran):
    change(built)
    outcome = built.doit()
    assert sorted(outcome.ran) == sorted(ran), outcome


def test_a_moved_project_with_moved_media_is_fresh(built):
    moved = built.folder.with_name("elsewhere")
    shutil.copytree(built.folder, moved, symlinks=True)  # new inodes and times too
    shutil.rmtree(built.folder)
    old, built.folder = str(built.folder), moved
    built.edit("smoke.yaml", old, str(moved))
    assert built.doit().ran == []


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
    assert outcome.code == 1 and "gates/S1/verdict.json: says NO_GO, evidence and policy say GO" in outcome.text


def test_an_edit_that_keeps_size_and_mtime_is_found(built):
    path = built.root / "render/data/score.json"
    found, data = path.stat(), bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert "render/data/score.json was edited" in built.doit("plan").text


def test_an_edited_receipt_cannot_vouch_for_itself(built):
    path = built.root / "render/receipt.json"
    path.write_text(
        path.read_text()
        .replace('"score":', '"score" :')
        .replace(': "1"', ': "2"')
        .replace('"seed": 1', '"seed": 2')
    )
    assert "render/receipt.json was edited" in built.doit("why", "render").text


def test_why_follows_the_cascade_to_the_first_cause(built):
    built.edit("bodies/scale.py", "FACTOR = 1", "FACTOR = 2")
    text = built.doit("why", "render").text
    assert "render: may run" in text and "because of slow" in text and "because of double" in text
    assert "code bodies.scale: " in text and " -> " in text


def test_plan_says_runs_may_run_and_fresh(built):
    built.edit("smoke.yaml", "seconds: 0.0", "seconds: 0.001")
    lines = dict(
        line.split(maxsplit=1) for line in built.doit("plan").text.splitlines() if not line.startswith(" ")
    )
    assert lines == {
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
    assert second["predicate"]["runDetails"]["info"].keys() == {"process", "seconds", "peak_memory_mib"}


def test_sha256sum_checks_a_manifest_without_us(built):
    import subprocess

    subprocess.run(
        ["sha256sum", "--strict", "-c", "../MANIFEST.sha256"], cwd=built.root / "double/data", check=True
    )
