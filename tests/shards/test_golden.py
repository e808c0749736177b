"""Golden sets are fixed, spread and of distinct media; ablation sets swap in a wrong one of like length."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.shards import golden, golden_files
from mmpt.shards.counter_rng import bits, stream
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.golden import contradicts, golden_items, in_turn, kind_of, length_buckets, shuffled, swaps
from mmpt.store.canonical import read_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens.formats import prompt


@pytest.fixture(scope="module")
def tests(world):
    return {
        task: ExampleSet.open(world.path("examples"), world.path("shards"), world.space, task, "test") for task in TASKS
    }


def record(name, caption, *, media=None, group=None, source="s", attributes=None, mentioned=None, category=None):
    return {
        "id": name,
        "caption": caption,
        "media_sha256": media or name,
        "group": group or name,
        "source": source,
        "attributes": attributes,
        "mentioned": mentioned,
        "category": category,
    }


class Listed:
    """Examples with given records and lengths; what golden.py asks of an ExampleSet."""

    def __init__(self, task, records, texts, payloads=None):
        self.task, self._records = task, records
        self._texts, self._payloads = texts, payloads or [8] * len(records)

    def __len__(self):
        return len(self._records)

    @property
    def records(self):
        return iter(self._records)  # gone over, never looked up

    @property
    def text_lengths(self):
        return np.array(self._texts)

    def record(self, index):
        return self._records[index]

    def text_ids(self, index):
        return np.zeros(self._texts[index], np.int32)

    def payload_ids(self, index):
        return np.zeros(self._payloads[index], np.int32)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80))
def test_buckets_follow_length(lengths):
    buckets = length_buckets(lengths)
    ranks = [("short", "medium", "long").index(bucket) for bucket in buckets]
    for one, rank in zip(lengths, ranks, strict=True):
        assert all(rank <= other_rank for other, other_rank in zip(lengths, ranks, strict=True) if other > one)
        assert all(rank == other_rank for other, other_rank in zip(lengths, ranks, strict=True) if other == one)


@given(st.lists(st.integers(1, 1000), min_size=6, max_size=80, unique=True))
def test_buckets_of_distinct_lengths_are_thirds(lengths):
    sizes = Counter(length_buckets(lengths)).values()
    assert max(sizes) - min(sizes) <= 2


def test_a_length_that_most_captions_have_leaves_room_for_longer_ones():
    assert length_buckets([5] * 8 + [6, 7]) == ["short"] * 8 + ["medium", "long"]
    assert set(length_buckets([5] * 9)) == {"short"}


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(0, 70))
def test_strata_are_served_in_turn(strata, n):
    chosen = in_turn(strata, n)
    assert len(chosen) == len(set(chosen)) == min(n, len(strata))
    sizes, taken = Counter(strata), Counter(strata[index] for index in chosen)
    for one in taken:
        for other in sizes:  # nobody is ahead by two while another still has something to give
            assert taken[one] <= taken[other] + 1 or taken[other] == sizes[other]


def test_golden_media_are_distinct_and_strata_even():
    records = [record(f"r{i}", f"caption {i}", media=f"m{i // 5}", source="ab"[i // 5 % 2]) for i in range(500)]
    items = golden_items(Listed("t2a", records, np.random.default_rng(0).integers(1, 41, 500)), 30, seed=3)
    assert len(items) == 30 and len({records[index]["media_sha256"] for index, _ in items}) == 30
    strata = Counter((bucket, records[index]["source"]) for index, bucket in items)
    assert len(strata) == 6 and set(strata.values()) == {5}
    assert len(golden_items(Listed("t2a", records, [1] * 500), 500, seed=3)) == 100  # as many as there are media
    prefix = Counter(bucket for _, bucket in items[:12])
    assert max(prefix.values()) - min(prefix.values()) <= 2


def test_repeated_captions_come_last():
    records = [record(f"r{i}", "the same" if i % 2 else f"caption {i}") for i in range(40)]
    order = shuffled(records, 0, "x", distinct_media=True)
    assert len({records[index]["caption"] for index in order[:21]}) == 21 and len(order) == 40


DRAWN = st.lists(st.tuples(st.integers(0, 6), st.sampled_from(["a dog", "A dog", "rain", "a bell"])), max_size=40)


@given(DRAWN, st.booleans())
def test_the_order_is_that_of_a_walk_over_a_list(drawn, distinct):
    """Media and captions met before come later, the oftener the later; of the rest a key of seed and id decides."""
    records = [record(f"r{i}", caption, media=f"m{medium}") for i, (medium, caption) in enumerate(drawn)]
    keys = [int(bits(stream(3, "x", one["id"]), 0)) for one in records]
    media, captions, ranked = Counter(), Counter(), []
    for index in sorted(range(len(records)), key=keys.__getitem__):
        medium, caption = records[index]["media_sha256"], records[index]["caption"].casefold()
        if not (distinct and media[medium]):
            ranked.append(((media[medium], captions[caption]), index))
            captions[caption] += 1
        media[medium] += 1
    wanted = [index for _, index in sorted(ranked, key=lambda pair: pair[0])]
    assert shuffled(iter(records), 3, "x", distinct_media=distinct) == wanted


def test_selection_depends_on_seed_and_ids_alone():
    records = [record(f"r{i}", f"caption {i}") for i in range(50)]
    order = shuffled(records, 0, "x", distinct_media=True)
    reversed_order = shuffled(records[::-1], 0, "x", distinct_media=True)
    assert [records[i]["id"] for i in order] == [records[::-1][i]["id"] for i in reversed_order]
    assert order != shuffled(records, 1, "x", distinct_media=True) != shuffled(records, 1, "y", distinct_media=True)


def test_golden_files(world, tests):
    for task in TASKS:
        path = world.path("golden") / f"golden_{task}_12.jsonl"
        validate_file(path, "golden_record")
        rows = read_jsonl(path)
        assert len(rows) == 12 and {row["length_bucket"] for row in rows} == {"short", "medium", "long"}
        for row in rows:
            one = tests[task][row["index"]]
            condition, target = (
                (one.text_ids, one.payload_ids) if task in EMIT_TASKS else (one.payload_ids, one.text_ids)
            )
            assert (
                row["id"] == one.id and row["prompt_ids"] == condition.tolist() and row["target_ids"] == target.tolist()
            )
            assert one.input_ids[: -len(target) - 1].tolist() == prompt(world.space, task, row["prompt_ids"]).tolist()
            if task in ("t2a", "a2t"):
                assert row["n_frames"] * row["meta"]["n_codebooks"] == len(one.payload_ids)


def test_ablation_files(world):
    for task in TASKS:
        path = world.path("golden") / f"ablation_{task}.jsonl"
        validate_file(path, "ablation_record")
        rows = read_jsonl(path)
        assert len(rows) == 16
        assert all(row["id"] != row["swap_id"] and row["group"] != row["swap_group"] for row in rows)
        assert len({row["swap_id"] for row in rows}) == len({row["id"] for row in rows}) == 16
        assert {row["swap_id"] for row in rows} == {row["id"] for row in rows}  # a permutation of the conditions
        difference = [abs(len(row["prompt_ids"]) - len(row["swap_prompt_ids"])) for row in rows]
        assert np.mean(difference) < 4
    counts = read_json(world.path("golden") / "golden.json")
    validate_file(world.path("golden") / "golden.json", "golden_stats")
    assert counts["t2a"]["available"] == 18 and counts["t2a"]["ablation"] == 16


def test_swapped_conditions_contradict_what_they_are_swapped_onto(tests):
    for task in TASKS:
        for swap in swaps(tests[task], 99, seed=0):
            item, donor = tests[task].record(swap.index), tests[task].record(swap.donor)
            speaker, shown = (donor, item) if task in EMIT_TASKS else (item, donor)
            assert any(speaker["attributes"][name] != shown["attributes"][name] for name in speaker["mentioned"])
            assert swap.kind == "attributes" == kind_of(item, donor)


def test_only_mentioned_attributes_count():
    red = record("a", "a red one", attributes={"colour": "red", "size": "big"}, mentioned=["colour"])
    small = record("b", "a red thing", attributes={"colour": "red", "size": "small"}, mentioned=["colour", "size"])
    assert contradicts(red, small, emits=True)  # "red, small" is false of a big red one
    assert not contradicts(small, red, emits=True)  # "red" is true of a small red one
    assert contradicts(small, red, emits=False) and not contradicts(red, small, emits=False)


def test_an_item_without_a_wrong_condition_is_left_out():
    red = {"colour": "red"}
    records = [
        record(f"r{i}", f"caption {i}", attributes=red if i < 9 else {"colour": "blue"}, mentioned=["colour"])
        for i in range(10)
    ]
    found = swaps(Listed("t2a", records, [5] * 10), 10, seed=0)
    assert {swap.index for swap in found} >= {9} and len(found) == 2  # nine reds can borrow from one blue only


def test_real_data_swaps_across_captions_media_and_categories():
    records = [
        record(f"r{i}", f"caption {i // 2}", media=f"m{i}", category="dogs" if i < 8 else "rain") for i in range(16)
    ]
    found = swaps(Listed("t2a", records, [5] * 16), 16, seed=0)
    assert len(found) == 16
    for swap in found:
        item, donor = records[swap.index], records[swap.donor]
        assert item["caption"] != donor["caption"] and item["category"] != donor["category"] and swap.kind == "category"


def test_where_one_category_is_all_there_is_captions_are_swapped():
    records = [record(f"r{i}", f"caption {i}", group="g", category="dogs") for i in range(6)]
    found = swaps(Listed("a2t", records, [5] * 6), 6, seed=0)
    assert len(found) == 6 and {swap.kind for swap in found} == {"caption"}


def test_lengths_are_matched():
    texts = [3, 40, 3, 40, 20, 20, 3, 40]
    records = [record(f"r{i}", f"caption {i}") for i in range(8)]
    assert all(texts[swap.index] == texts[swap.donor] for swap in swaps(Listed("t2i", records, texts), 8, seed=0))


def test_one_item_cannot_be_swapped():
    assert swaps(Listed("t2a", [record("a", "b")], [3]), 8, seed=0) == []


def test_the_stage_is_deterministic_and_seeded(world, folder):
    assert Manifest.of(world.run("golden", folder / "again")) == Manifest.of(world.path("golden"))
    context = world.context("golden", folder / "other", folder / "work")
    context.seed = 8
    from mmpt.stages.golden import golden

    golden(context)
    names = [
        [row["id"] for row in read_jsonl(root / "golden_t2i_12.jsonl")]
        for root in (world.path("golden"), folder / "other")
    ]
    assert names[0] != names[1]


@pytest.mark.parametrize(
    ("caption", "kind"),
    [
        ("A man is speaking while birds chirp", "speech"),
        ("Someone plays an acoustic guitar", "music"),
        ("A woman sings and people talk", "music"),
        ("Rain falls on a tin roof", "other"),
        ("A rocket is launched", "other"),
    ],
)
def test_sounds_are_stratified_by_speech_and_music(caption, kind):
    record = {"source": "clotho", "caption": caption, "attributes": {}}
    assert golden.origin_stratum(record, "t2a") == f"clotho {kind}"
    assert golden.origin_stratum(record, "t2i") == "clotho"
    assert golden.origin_stratum({**record, "attributes": {"kind": "tone"}}, "t2a") == "clotho"


def test_a_folder_with_two_golden_sets_of_a_task_is_refused(tmp_path):
    for n in (2, 4):
        (tmp_path / golden_files.golden_file("t2a", n)).write_text("")
    with pytest.raises(UserError, match="several golden sets of one task"):
        golden_files.golden_path(tmp_path, "t2a")
    assert golden_files.golden_path(tmp_path, "t2i") is None
