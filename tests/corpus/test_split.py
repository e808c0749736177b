"""The split: what belongs together stays together, official test records stay out of training."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.corpus.split import deal, s2_metrics
from mmpt.store.tasks import SPLITS


def record(i, origin=None, content=None, hint=None, modality="image", attributes=None):
    return {
        "id": f"r{i}",
        "modality": modality,
        "origin": origin or f"o{i}",
        "content_sha256": content or f"c{i}",
        "split_hint": hint,
        "attributes": attributes,
    }


def assign(records, val, test):
    return list(deal(records, val, test))


def sides(rows):
    return {row["id"]: row["split"] for row in rows}


def metrics(records, rows):
    return {(m.name, m.slice): m.value for m in s2_metrics(records, rows)}


def test_chains_of_shared_origin_and_content_are_one_unit():
    chain = [record(0, "x", "p"), record(1, "y", "p"), record(2, "y", "q"), record(3, "z", "q"), record(4)]
    rows = assign(chain, 0.3, 0.3)
    assert len({row["unit"] for row in rows[:4]}) == 1 and rows[4]["unit"] != rows[0]["unit"]
    assert rows[0]["unit"] == "x"


RECORDS = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 12), st.sampled_from([None, None, "train", "val", "test"])),
    min_size=1,
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.randoms(use_true_random=False))
def test_what_holds_for_every_split(drawn, random):
    records = [record(i, f"o{origin}", f"c{content}", hint) for i, (origin, content, hint) in enumerate(drawn)]
    rows = assign(records, 0.2, 0.2)
    found = metrics(records, rows)
    assert found["content_in_two_splits", ""] == found["origins_in_two_splits", ""] == 0
    assert found["official_test_in_train", ""] == found["records_without_split", ""] == 0
    mixed = list(records)
    random.shuffle(mixed)
    assert sides(assign(mixed, 0.2, 0.2)) == sides(rows)  # the order of the records does not matter


def test_shares_are_about_what_was_asked_for():
    rows = assign([record(i) for i in range(4000)], 0.1, 0.2)
    share = {s: sum(row["split"] == s for row in rows) / 4000 for s in SPLITS}
    assert share["val"] == pytest.approx(0.1, abs=0.02) and share["test"] == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(("n", "least"), [(3, 1), (8, 2), (16, 4), (40, 4)])
def test_small_corpora_still_get_a_few_units_on_each_side(n, least):
    for salt in range(20):
        found = list(sides(assign([record(f"{salt}-{i}") for i in range(n)], 0.02, 0.02)).values())
        assert found.count("val") >= least and found.count("test") >= least and found.count("train") >= n // 3


def test_each_modality_gets_its_share():
    records = [record(i, modality="audio") for i in range(12)] + [record(i + 100) for i in range(500)]
    rows = assign(records, 0.05, 0.05)
    assert sum(row["modality"] == "audio" and row["split"] == "test" for row in rows) >= 3


def test_a_share_of_nothing_is_nothing():
    assert "val" not in sides(assign([record(i) for i in range(50)], 0.0, 0.2)).values()


def test_added_records_leave_the_others_where_they_were():
    before = sides(assign([record(i) for i in range(400)], 0.1, 0.2))
    after = sides(assign([record(i) for i in range(900)], 0.1, 0.2))
    assert all(after[name] == side for name, side in before.items())


def test_hints_are_followed_and_test_wins_within_a_unit():
    records = [
        record(0, hint="val"),
        record(1, hint="train"),
        record(2, "x", hint="train"),
        record(3, "x", hint="test"),
        record(4, "x"),
    ]
    rows = assign(records, 0.0, 0.9)
    assert [row["split"] for row in rows] == ["val", "train", "test", "test", "test"]
    assert {row["decided_by"] for row in rows} == {"hint"}


def test_the_measure_finds_what_a_wrong_split_does():
    records = [
        record(0, "x", "p", hint="test"),
        record(1, "x", "q"),
        record(2, "y", "q"),
        record(3),
        record(4, attributes={"colour": "red"}),
        record(5, attributes={"colour": "red"}),
    ]
    wrong = [
        {"id": f"r{i}", "split": side}
        for i, side in [(0, "train"), (1, "test"), (2, "train"), (4, "train"), (5, "val")]
    ]
    found = metrics(records, wrong)
    assert found["content_in_two_splits", ""] == 1 and found["origins_in_two_splits", ""] == 1
    assert found["official_test_in_train", ""] == 1 and found["records_without_split", ""] == 1
    assert found["combinations_in_two_splits", ""] == 1
    assert [found["records_in_split", f"image.{s}"] for s in SPLITS] == [3, 1, 1]
    assert [found["records_in_split", f"audio.{s}"] for s in SPLITS] == [0, 0, 0]
