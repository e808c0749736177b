"""Records pass through the corpus stages: few are alive at once, and what comes out is what lists of them gave."""

import copy
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.corpus import manifest, split, split_check
from mmpt.corpus.fingerprints import LENGTHS, NONE, Fingerprints
from mmpt.corpus.keys import Keys
from mmpt.corpus.manifest import AHEAD, BATCH, measure_all, s1_metrics
from mmpt.corpus.problems import Problem, refuse
from mmpt.store import jsonl
from mmpt.store.errors import UserError
from mmpt.store.jsonl import JsonLines, count_lines, jsonl_writer, read_jsonl, write_jsonl
from mmpt.store.stage import SliceView, StageContext
from tests.corpus import reference_split
from tests.corpus.test_split import record


class Row(dict):
    """A record whose end is noticed."""


class Probe:
    """n records, made anew each time they are gone over; `most` is how many were alive at once."""

    def __init__(self, n, **fields):
        self.n, self.fields, self.alive, self.most, self.passes = n, fields, 0, 0, 0

    def __iter__(self):
        self.passes += 1
        for index in range(self.n):
            row = Row(record(index) | self.fields)
            weakref.finalize(row, self.gone)
            self.alive += 1
            self.most = max(self.most, self.alive)
            yield row

    def gone(self):
        self.alive -= 1


def test_the_split_holds_no_record():
    probe = Probe(3000)
    rows = list(split.deal(probe, 0.1, 0.1))
    assert len(rows) == 3000 and probe.most <= 3 and probe.passes == 3
    probe = Probe(3000, attributes={"colour": "red"})
    split_check.s2_metrics(probe, iter(rows))
    assert probe.most <= 3 and probe.passes == 1


def test_the_manifest_holds_what_its_threads_work_on(monkeypatch):
    monkeypatch.setattr(manifest, "measure", lambda record, roots: {"id": record["id"]})
    for threads in (1, 3):
        probe, told = Probe(4000), []
        found = [row["id"] for row in measure_all(probe, {}, threads, told.append)]
        assert found == [f"r{i}" for i in range(4000)]
        assert probe.most <= (AHEAD * threads + 2) * BATCH
        assert told == sorted(told) and told[-1] > 3000
    probe = Probe(2000, source="a", license="b", media={"root": "a"}, audio=None, image=None)
    s1_metrics(probe, [], ["image"], [{"name": "a", "reader": "captions"}])
    assert probe.most <= 3 and probe.passes == 1


SMALL = st.integers(0, 9)
RECORDS = st.lists(
    st.tuples(
        SMALL,
        SMALL,
        st.sampled_from([None, None, None, "train", "val", "test"]),
        st.booleans(),
        st.sampled_from([None, {}, {"a": "x"}, {"a": "x", "b": "y"}, {"b": "y", "a": "x"}, {"a": "z"}]),
    ),
    max_size=30,
)


def drawn_records(drawn):
    return [
        record(i, f"o{origin}", f"c{content}", hint, ("image", "audio")[sound], attributes)
        for i, (origin, content, hint, sound, attributes) in enumerate(drawn)
    ]


@settings(max_examples=150, deadline=None)
@given(RECORDS, st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.0, 0.1, 0.4]))
def test_the_split_is_that_of_lists_and_dicts(drawn, val, test):
    records = drawn_records(drawn)
    assert list(split.deal(records, val, test)) == reference_split.assign(records, val, test)


@settings(max_examples=150, deadline=None)
@given(
    RECORDS,
    st.lists(st.tuples(st.integers(0, 35), st.sampled_from(["train", "val", "test", "all", None])), max_size=40),
)
def test_what_s2_counts_is_what_lists_and_dicts_gave(drawn, dealt):
    records = drawn_records(drawn)
    rows = [{"id": f"r{i}", "split": side} for i, side in dealt]
    assert split_check.s2_metrics(records, rows) == reference_split.s2_metrics(records, rows)


def test_a_large_split_is_that_of_the_hash():
    records = [record(i, modality=("image", "audio")[i % 2]) for i in range(5000)]
    sides = {}
    for modality in ("image", "audio"):
        units = [r["origin"] for r in records if r["modality"] == modality]
        sides |= reference_split.by_hash(units, 0.03, 0.07)
    assert [row["split"] for row in split.deal(records, 0.03, 0.07)] == [sides[r["origin"]] for r in records]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3)))
def test_texts_are_grouped_by_being_equal(texts):
    keys = Keys()
    for text in texts:
        keys.add(text)
    numbers, count = keys.groups()
    assert len(keys) == len(texts) and count == len(set(texts))
    assert {
        (one == other) == (a == b)
        for one, a in zip(texts, numbers, strict=True)
        for other, b in zip(texts, numbers, strict=True)
    } <= {True}


def context(tmp_path, name):
    profile = {"split": {"val": 0.1, "test": 0.1}}
    (tmp_path / name).mkdir()
    view = SliceView(profile, tuple(profile), name)
    return StageContext(name, view, {"manifest": tmp_path / "manifest"}, tmp_path / name, tmp_path / "work")


def test_the_split_stage_reads_each_file_as_often_whatever_their_size(tmp_path, monkeypatch):
    from mmpt.stages.split import split

    reads, read = [], jsonl.iter_jsonl
    monkeypatch.setattr(jsonl, "iter_jsonl", lambda path: reads.append(path.name) or read(path))
    for n in (10, 500):
        write_jsonl(tmp_path / "manifest" / "manifest.jsonl", map(record, range(n)))
        plain = Fingerprints()
        for one in map(record, range(n)):
            plain.add(one["modality"], np.full(LENGTHS[one["modality"]], NONE, np.int8))
        plain.save(tmp_path / "manifest")
        reads.clear()
        split(context(tmp_path, f"split_{n}"))
        assert sorted(reads) == ["manifest.jsonl"] * 5 + ["split.jsonl"]


def test_lines_are_counted_and_read_again(tmp_path):
    path = tmp_path / "x.jsonl"
    write_jsonl(path, ({"n": n} for n in range(7)))
    assert count_lines(path) == 7 and [*JsonLines(path)] == [*JsonLines(path)] == read_jsonl(path)
    write_jsonl(path, ({**row, "again": True} for row in JsonLines(path)))
    assert count_lines(path) == 7 and all(row["again"] for row in read_jsonl(path))
    path.open("a").write("not JSON\n")
    rows = iter(JsonLines(path))
    assert [next(rows)["n"] for _ in range(7)] == list(range(7))  # read as they are asked for
    with pytest.raises(UserError, match="x.jsonl:8: not JSON"):
        next(rows)
    with pytest.raises(UserError, match="no such file"):
        count_lines(tmp_path / "y.jsonl")


def test_a_writer_that_is_stopped_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), jsonl_writer(tmp_path / "x.jsonl") as write:
        write({"a": 1})
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_of_the_first_few_counts_all():
    bad = Problem("missing", "s", "s/a:1", "a", "no file", "nothing", "a file", "restore it")
    with pytest.raises(UserError, match="4000 bad records in the corpus:") as caught:
        refuse([copy.copy(bad) for _ in range(20)], total=4000)
    assert "and 3980 more" in str(caught.value)
