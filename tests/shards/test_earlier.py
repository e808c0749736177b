"""Shards take over the tokens of media that earlier shards hold, and of no others."""

import shutil

import numpy as np
import pytest

from mmpt.shards import tokenise
from mmpt.store.digests import Manifest
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from tests.shards.world import BODIES


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """Ids of the records that are encoded."""
    ids: list[str] = []
    real = tokenise.encode_records

    def note(encoder, records, *rest):
        ids.extend(record["id"] for record in records)
        return real(encoder, records, *rest)

    monkeypatch.setattr(tokenise, "encode_records", note)
    return ids


def tokenised(world, folder, *earlier, split=None):
    """The shards stage with these earlier results, in folders of its own; where it wrote and what it told."""
    context = world.context("shards", folder / "out", folder / "work")
    context.earlier = earlier
    if split is not None:
        context.inputs["split"] = split
    BODIES["shards"](context)
    return context.out, context.run_info


def changed(world, folder, change):
    """A copy of the world's shards whose ids and headers went through ``change``."""
    shutil.copytree(world.path("shards"), folder)
    for path in folder.glob("*.safetensors"):
        tensors, header = load_tensors(path), read_meta(path)
        save_tensors(path, *change(tensors, header))
    return folder


def test_nothing_is_encoded_twice(world, folder, encoded):
    out, told = tokenised(world, folder, world.path("shards"))
    assert encoded == [] and told["records_taken"] == 150
    assert Manifest.of(out) == Manifest.of(world.path("shards"))


def test_a_tenth_more_records_encodes_a_tenth(world, folder, encoded):
    rows = list(read_jsonl(world.path("split") / "split.jsonl"))
    new = {row["id"] for row in rows[::10]}
    (folder / "split").mkdir()
    write_jsonl(folder / "split" / "split.jsonl", [row for row in rows if row["id"] not in new])
    before, _ = tokenised(world, folder / "before", split=folder / "split")
    encoded.clear()
    out, told = tokenised(world, folder / "after", before)
    assert set(encoded) == new and told["records_taken"] == len(rows) - len(new)
    assert Manifest.of(out) == Manifest.of(world.path("shards"))


def test_another_token_space_moves_the_ids(world, folder, encoded):
    def moved(tensors, header):
        ids = tensors["ids"].reshape(-1, len(header["starts"]))
        steps = np.arange(1, len(header["starts"]) + 1, dtype=np.int32) * 1000
        starts = [start + step for start, step in zip(header["starts"], steps.tolist(), strict=True)]
        return {**tensors, "ids": (ids + steps).reshape(-1)}, {**header, "starts": starts, "token_space": "0" * 64}

    out, _ = tokenised(world, folder, changed(world, folder / "moved", moved))
    assert encoded == [] and Manifest.of(out) == Manifest.of(world.path("shards"))


@pytest.mark.parametrize("key", ["codec", "cut"])
def test_what_another_codec_or_cut_made_is_not_taken(world, folder, encoded, key):
    other = changed(world, folder / "other", lambda tensors, header: (tensors, {**header, key: "another"}))
    out, told = tokenised(world, folder, other)
    assert len(encoded) == 150 and told["records_taken"] == 0
    assert Manifest.of(out) == Manifest.of(world.path("shards"))
