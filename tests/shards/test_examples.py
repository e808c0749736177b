"""Examples: targets are never shortened, prompts are when it helps, all else is dropped and counted."""

import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.shards.example_set import ExampleSet
from mmpt.shards.examples import needed, select
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.text_set import open_tokenizer
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens.formats import IGNORE, OVERHEAD
from tests.shards.world import World

counts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30)


@given(st.sampled_from(TASKS), counts, st.integers(1, 90), st.none() | st.integers(1, 30))
def test_everything_is_kept_or_counted_and_targets_are_whole(task, pairs, max_seq_len, max_prompt):
    texts, payloads = np.array([t for t, _ in pairs], np.int64), np.array([p for _, p in pairs], np.int64)
    chosen = select(task, texts, payloads, max_seq_len, max_prompt)
    assert len(chosen.kept) + sum(chosen.dropped.values()) == len(pairs)
    assert (chosen.text_lengths + payloads[chosen.kept] + OVERHEAD <= max_seq_len).all()
    assert (chosen.text_lengths >= 1).all() and (payloads[chosen.kept] >= 1).all()
    if task in EMIT_TASKS:
        assert (chosen.text_lengths <= np.minimum(texts[chosen.kept], max_prompt or 99)).all()
        assert chosen.shortened == (chosen.text_lengths < texts[chosen.kept]).sum()
    else:
        assert (chosen.text_lengths == texts[chosen.kept]).all() and chosen.shortened == 0


@given(st.sampled_from(TASKS), counts)
def test_needed_is_exactly_the_length_from_which_a_record_is_kept(task, pairs):
    texts, payloads = np.array([t for t, _ in pairs], np.int64), np.array([p for _, p in pairs], np.int64)
    for kept, length in enumerate(needed(task, texts, payloads), 1):
        assert len(select(task, texts, payloads, int(length)).kept) >= kept
        assert len(select(task, texts, payloads, int(length) - 1).kept) < kept


def test_reasons_for_dropping():
    texts, payloads = np.array([0, 5, 5, 5, 50]), np.array([4, 0, 4, 90, 4])
    read, emit = select("a2t", texts, payloads, 60), select("t2a", texts, payloads, 60)
    assert read.dropped == {"empty_target": 1, "empty_source": 1, "too_long": 1} and read.kept.tolist() == [
        2,
        4,
    ]
    assert emit.dropped == {"empty_source": 1, "empty_target": 1, "too_long": 1} and emit.kept.tolist() == [
        2,
        4,
    ]
    assert (emit.text_lengths.tolist(), emit.shortened) == ([5, 50], 0)
    assert select("t2a", texts, payloads, 40).text_lengths.tolist() == [5, 31]
    assert select("t2a", texts, payloads, 60, max_prompt=9).text_lengths.tolist() == [5, 9]
    assert select("a2t", texts, payloads, 60, max_prompt=3).text_lengths.tolist() == [
        5,
        50,
    ]  # its text is a target


def test_sequences_are_the_caption_and_the_stored_ids(world):
    tokenizer = open_tokenizer(world.path("token_space"))
    for task in TASKS:
        examples = ExampleSet.open(world.path("examples"), world.path("shards"), world.space, task, "test")
        shards = ShardSet.open(world.path("shards"), examples.shards.modality, "test")
        assert len(examples) == len(shards) > 0
        for index in range(len(examples)):
            one = examples[index]
            assert one.id == shards.record(index)["id"] and one.group == shards.record(index)["group"]
            assert one.text_ids.tolist() == tokenizer.encode(shards.record(index)["caption"]).ids
            assert (one.payload_ids == shards.ids(index)).all()
            target = one.payload_ids if task in EMIT_TASKS else one.text_ids
            assert one.labels[one.labels != IGNORE][:-1].tolist() == target.tolist()
            assert (
                len(one.input_ids)
                == examples.lengths[index]
                == len(target) + len(one.text_ids) + len(one.payload_ids) - len(target) + OVERHEAD
            )


def test_counts_are_those_of_the_files(world):
    drops = read_json(world.path("examples") / "drops.json")
    validate_file(world.path("examples") / "drops.json", "drops")
    for task in TASKS:
        sizes = [
            len(ExampleSet.open(world.path("examples"), world.path("shards"), world.space, task, split))
            for split in ("train", "val", "test")
        ]
        assert drops[task] == {"kept": sum(sizes), "dropped": {}, "shortened_prompt": 0}


def test_a_tight_limit_shortens_prompts_and_drops_long_texts(world, folder):
    out = world.run("examples", folder / "out", examples__max_seq_len=16 + OVERHEAD + 27)
    drops = read_json(out / "drops.json")
    texts = [
        len(open_tokenizer(world.path("token_space")).encode(record["caption"]).ids)
        for split in ("train", "val", "test")
        for record in ShardSet.open(world.path("shards"), "image", split).records
    ]
    long = sum(length > 27 for length in texts)
    assert 0 < long < len(texts)
    assert drops["t2i"] == {"kept": 90, "dropped": {}, "shortened_prompt": long}
    assert drops["i2t"] == {"kept": 90 - long, "dropped": {"too_long": long}, "shortened_prompt": 0}
    shortened = ExampleSet.open(out, world.path("shards"), world.space, "t2i", "test")
    assert max(len(one) for one in map(shortened.text_ids, range(len(shortened)))) == 27
    assert all(len(shortened.payload_ids(index)) == 16 for index in range(len(shortened)))


def test_a_limit_too_small_for_any_example_names_the_smallest_that_works(world, folder):
    with pytest.raises(
        UserError, match="examples.max_seq_len: too small for any example of a2t, t2a, i2t, t2i; found 12"
    ) as caught:
        world.run("examples", folder / "small", examples__max_seq_len=12)
    tokenizer = open_tokenizer(world.path("token_space"))
    shards = ShardSet.open(world.path("shards"), "audio", "train")
    texts = [len(tokenizer.encode(record["caption"]).ids) for record in shards.records]
    least = min(text + len(shards.ids(place)) for place, text in enumerate(texts)) + OVERHEAD
    assert f"at least {least} (a2t {least}, t2a " in str(caught.value)
    assert world.run("examples", folder / "works", examples__max_seq_len=least)
    with pytest.raises(UserError, match=f"any example of a2t; found {least - 1}"):
        world.run("examples", folder / "fails", examples__max_seq_len=least - 1)


def test_records_that_were_not_encoded_are_counted_as_dropped(world, folder):
    shutil.copytree(world.path("shards"), folder / "shards")
    shutil.copytree(world.path("token_space"), folder / "token_space")
    shutil.copytree(world.path("split"), folder / "split")
    val = next(
        row
        for row in read_jsonl(folder / "split" / "split.jsonl")
        if (row["modality"], row["split"]) == ("audio", "val")
    )
    lost = {"id": val["id"], "kind": "encode", "what": "unreadable"}
    write_jsonl(folder / "shards" / "errors.jsonl", [lost])
    out = World(folder, world.profile, {}).run("examples")
    drops = read_json(out / "drops.json")
    assert drops["a2t"]["dropped"] == drops["by_split"]["val"]["t2a"]["dropped"] == {"not_encoded": 1}
    assert drops["i2t"]["dropped"] == {} == drops["by_split"]["test"]["a2t"]["dropped"]


def test_another_prompt_changes_only_the_prompt(world):
    examples = ExampleSet.open(world.path("examples"), world.path("shards"), world.space, "t2a", "test")
    own, other = examples[0], examples.build(0, text_ids=examples.text_ids(1))
    assert (own.labels[own.labels != IGNORE] == other.labels[other.labels != IGNORE]).all()
    assert other.input_ids[1 : 1 + len(other.text_ids)].tolist() == examples.text_ids(1).tolist()


def test_the_stage_is_deterministic(world, folder):
    from mmpt.store.digests import Manifest

    assert Manifest.of(world.run("examples", folder / "again")) == Manifest.of(world.path("examples"))
