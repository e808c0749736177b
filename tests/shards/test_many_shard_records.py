"""Shards and examples of many records: what is held is places, and what comes out is what lists gave."""

import hashlib
import os
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from mmpt.shards import lines as lines_module
from mmpt.shards import tokenise
from mmpt.shards.audit import Findings, check_segments
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.examples import Captions
from mmpt.shards.lines import Lines, Picked
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.tokenise import plan, save_shard
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.store.tasks import MODALITIES, SPLITS, TASKS
from mmpt.store.tensors import load_tensors
from mmpt.tokens import build_token_space


@pytest.fixture
def three_files(tmp_path):
    """(files of 3, 0 and 4 records, the seven records)."""
    rows = [{"n": n, "text": "ü" * n} for n in range(7)]
    parts = [rows[:3], [], rows[3:]]
    for index, part in enumerate(parts):
        write_jsonl(tmp_path / f"{index}.jsonl", part)
    return [tmp_path / f"{index}.jsonl" for index in range(3)], rows


def test_lines_are_a_sequence_over_their_files(three_files):
    files, rows = three_files
    found = Lines.open(files)
    assert len(found) == 7 and list(found) == rows
    assert [found[index] for index in range(-7, 7)] == [*rows, *rows]
    assert list(found.take([6, 0, 3, 3, 2])) == [rows[6], rows[0], rows[3], rows[3], rows[2]]
    picked = Picked(found, np.array([5, 1]))
    assert len(picked) == 2 and list(picked) == [picked[0], picked[1]] == [rows[5], rows[1]]
    for wrong in (7, -8):
        with pytest.raises(IndexError):
            found[wrong]
    with pytest.raises(UserError, match="no such file"):
        Lines.open([*files, files[0].with_name("9.jsonl")])


def test_lines_are_found_over_the_borders_of_what_is_read_at_once_and_without_a_last_newline(three_files, monkeypatch):
    files, rows = three_files
    files[2].write_bytes(files[2].read_bytes().removesuffix(b"\n"))
    monkeypatch.setattr(lines_module, "PIECE", 5)
    assert [Lines.open(files)[index] for index in range(7)] == rows


def test_forked_processes_read_the_lines_they_ask_for(three_files):
    """A shared file position would give one process the other's line."""
    files, rows = three_files
    found = Lines.open(files)
    children = []
    for index in (1, 5):
        if (child := os.fork()) == 0:
            os._exit(0 if all(found[index] == rows[index] for _ in range(200)) else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def test_records_are_dealt_in_manifest_order_and_none_is_held(tmp_path, monkeypatch):
    rng = np.random.default_rng(3)
    rows = [{"id": f"r{n}", "modality": MODALITIES[int(rng.integers(2))]} for n in range(500)]
    sides = [{"id": row["id"], "split": SPLITS[int(rng.choice(3, p=[0.8, 0.1, 0.1]))]} for row in rows]
    rng.shuffle(sides)
    sides = sides[:480]
    write_jsonl(tmp_path / "manifest.jsonl", rows)
    shards = plan(Lines.open([tmp_path / "manifest.jsonl"]), iter(sides), 16)
    side = {row["id"]: row["split"] for row in sides}
    for modality in MODALITIES:
        for split in SPLITS:
            wanted = [r for r in rows if r["modality"] == modality and side.get(r["id"]) == split]
            mine = [shard for shard in shards if (shard.modality, shard.split) == (modality, split)]
            assert [row for shard in mine for row in shard.records] == wanted
            assert [shard.index for shard in mine] == list(range(len(mine)))
            assert all(len(shard.records) == 16 for shard in mine[:-1])
    only = plan(Lines.open([tmp_path / "manifest.jsonl"]), iter(sides), 16, ("image",))
    assert [shard.name for shard in only] == [shard.name for shard in shards if shard.modality == "image"]


def test_the_heads_of_captions_are_those_of_a_list(monkeypatch):
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 99, int(n)).astype(np.int32) for n in rng.integers(0, 9, 50)]
    captions = Captions(np.concatenate(texts), np.cumsum([0, *map(len, texts)]))
    kept = np.flatnonzero(rng.random(50) < 0.7)
    used = np.minimum(captions.lengths[kept], rng.integers(0, 6, len(kept)))
    wanted = np.concatenate([texts[one][:n] for one, n in zip(kept, used, strict=True)])
    for chunk in (1, 7, 1000):
        monkeypatch.setattr("mmpt.shards.examples._CHUNK", chunk)
        assert captions.heads(kept, used).tolist() == wanted.tolist()
    nothing = captions.heads(np.zeros(0, np.int64), np.zeros(0, np.int64))
    assert nothing.dtype == np.int32 and not len(nothing)


@pytest.mark.parametrize("task", TASKS)
def test_a_mapped_example_file_reads_like_a_loaded_one(world, task, monkeypatch):
    monkeypatch.setattr("mmpt.shards.example_set._PIECE", 7)
    path = world.path("examples") / f"{task}-train.safetensors"
    examples = ExampleSet.open(world.path("examples"), world.path("shards"), world.space, task, "train")
    tensors = load_tensors(path)
    ids, offsets = tensors["text_ids"], tensors["text_offsets"]
    for index in (*range(len(examples)), -1):
        at = range(len(examples))[index]
        assert examples.text_ids(index).tolist() == ids[offsets[at] : offsets[at + 1]].tolist()
    parts = [tensors["records"].tobytes(), ids.tobytes(), offsets.tobytes(), examples.shards.identity.encode()]
    assert examples.identity == hashlib.sha256(b"\0".join(parts)).hexdigest()


def test_what_a_shard_set_holds_does_not_grow_with_its_tokens(tmp_path):
    """A hundred records: of 10 tokens each, or of 20,000."""
    held = {}
    for tokens in (10, 20_000):
        folder = tmp_path / str(tokens)
        folder.mkdir()
        stamp = {"token_space": "0" * 64, "codec": "1" * 64}
        save_shard(folder, "audio", "train", 0, [np.full(tokens, 5, np.int32)] * 100, [{"id": "x"}] * 100, stamp)
        tracemalloc.start()
        shards = ShardSet.open(folder, "audio", "train")
        assert all(len(shards.ids(index)) == tokens and shards.record(index) == {"id": "x"} for index in range(100))
        held[tokens] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert held[20_000] < held[10] + 4 * 20_000 + 50_000, held  # one record's ids at a time


def test_the_codes_used_are_counted_shard_by_shard(tmp_path):
    for index, ids in enumerate(([1, 2, 2], [2, 3], [9])):
        rows = [{"id": str(index)}]
        stamp = {"token_space": "0" * 64, "codec": "1" * 64}
        save_shard(tmp_path, "image", "train", index, [np.array(ids, np.int32)], rows, stamp)
    shards = ShardSet.open(tmp_path, "image", "train")

    space = SimpleNamespace(segments={"image": [SimpleNamespace(start=1, end=4, size=4)]}.get)
    assert list(tokenise._codes_used(shards, space)) == [3 / 4]
    assert [part.tolist() for part in shards.ids_by_shard()] == [[1, 2, 2], [2, 3], [9]]


def test_ids_are_audited_shard_by_shard(tmp_path):
    """Codebook k is at k, k + 2, ..; the second shard has an id of the wrong one at place 3 of its second record."""
    stamp = {"token_space": "0" * 64, "codec": "1" * 64}
    good = np.array([11, 21, 12, 22], np.int32)
    bad = np.array([11, 21, 12, 12], np.int32)
    for index, ids in enumerate(([good, good], [good, bad], [good])):
        rows = [{"id": f"{index}-{place}"} for place in range(len(ids))]
        save_shard(tmp_path, "audio", "train", index, ids, rows, stamp)

    space = build_token_space(
        base_text_model="x",
        text_vocab_size=1,
        n_special=10,
        image_tokenizer=None,
        audio_codec={"n_codebooks": 2, "codebook_size": 10},
    )
    found = Findings(expected=5, quality_metric="x", quality_floor=0.0)
    check_segments(ShardSet.open(tmp_path, "audio", "train"), space, found)
    assert found.ids_out_of_segment == 1
    assert found.offenders == [{"id": "1-1", "check": "ids_out_of_segment", "found": "id 12 at 3"}]
