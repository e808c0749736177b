"""Keys of very many texts: what a dict would say, in a fraction of its memory."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from mmpt.store import numbers
from mmpt.store.numbers import Firsts, Labels, Numbers

TEXTS = st.lists(st.text(max_size=3), max_size=60)


@given(TEXTS, TEXTS)
def test_a_text_has_the_number_that_a_dict_would_give_it(added, asked):
    known, found = {}, Numbers()
    for text in added:
        assert found.add(text) == known.setdefault(text, len(known))
    assert len(found) == len(known)
    assert [found.find(text) for text in (*added, *asked)] == [known.get(text, -1) for text in (*added, *asked)]


def test_numbers_stay_when_the_table_grows_and_when_keys_want_the_same_slot(monkeypatch):
    monkeypatch.setattr(numbers, "ROOM", 2)
    found = Numbers()
    assert [found.add(f"r{index}") for index in range(5000)] == list(range(5000))
    assert [found.find(f"r{index}") for index in range(5001)] == [*range(5000), -1]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["train", "val", "test"]))))
def test_of_two_labels_the_last_counts(pairs):
    labels, wanted = Labels(pairs), dict(pairs)
    assert len(labels) == len(wanted) and {text: labels.get(text) for text in "abcdefg"} == {
        text: wanted.get(text) for text in "abcdefg"
    }


def test_the_note_of_the_first_one_is_kept():
    seen = Firsts()
    assert [seen.before("a", "file:1"), seen.before("b", ""), seen.before("ü", "ö:3")] == [None, None, None]
    assert [seen.before("a", "file:4"), seen.before("b", "x"), seen.before("ü", "")] == ["file:1", "", "ö:3"]


def test_a_label_takes_less_than_fifty_bytes():
    tracemalloc.start()
    labels = Labels((f"a-record-with-a-longer-id-{index}", ("train", "val")[index % 2]) for index in range(50_000))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 50 * len(labels), held / len(labels)
