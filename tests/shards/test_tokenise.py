"""The shards stage: killed and resumed it writes the same bytes, and a bad file costs one record."""

import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from mmpt.codecs import registry
from mmpt.codecs.media import load_audio, load_image
from mmpt.shards.encode import AudioEncoder, Encoded, Failed, encode_records
from mmpt.shards.shard_set import ShardSet
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.tokens.space import TokenSpace
from tests.killed_fork import dies
from tests.shards.world import BODIES, World


def killed_at(world, folder, at: int) -> None:
    """Run the stage in a child that kills itself after `at` records."""

    def die(done, total, text):
        if done >= at:
            os.kill(os.getpid(), signal.SIGKILL)

    context = world.context("shards", folder / "lost", folder / "work")
    context.on_progress = die
    assert dies(lambda: BODIES["shards"](context))


@pytest.mark.parametrize("at", [8, 40, 100, 150])
def test_killed_anywhere_and_resumed_gives_the_same_bytes(world, folder, at):
    killed_at(world, folder, at)
    finished = {path.name.split(".")[0]: path.stat().st_mtime_ns for path in (folder / "work").glob("*.done.json")}
    assert at < 40 or finished
    out = world.run("shards", folder / "out", folder / "work")
    assert Manifest.of(out) == Manifest.of(world.path("shards"))
    again = {name: (folder / "work" / f"{name}.done.json").stat().st_mtime_ns for name in finished}
    assert again == finished  # finished shards were not encoded again


def test_a_shard_without_its_sidecar_is_encoded_again(world, folder):
    world.run("shards", folder / "first", folder / "work")
    for name in ("audio-train-00001.done.json", "audio-train-00001.jsonl"):
        (folder / "work" / name).unlink()
    assert Manifest.of(world.run("shards", folder / "out", folder / "work")) == Manifest.of(world.path("shards"))


def test_an_edited_published_shard_does_not_reach_the_next_run(world, folder):
    out = world.run("shards", folder / "out", folder / "work")
    with open(out / "image-test-00000.safetensors", "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\xff")
    shutil.rmtree(out)
    assert Manifest.of(world.run("shards", out, folder / "work")) == Manifest.of(world.path("shards"))


def test_all_records_are_there_once_in_manifest_order(world):
    manifest = [row["id"] for row in read_jsonl(world.path("manifest") / "manifest.jsonl")]
    sides = {row["id"]: row["split"] for row in read_jsonl(world.path("split") / "split.jsonl")}
    for modality in ("audio", "image"):
        for split in ("train", "val", "test"):
            stored = [
                record["id"] for record in ShardSet.open(world.path("shards"), modality, split, world.space).records
            ]
            assert stored == [one for one in manifest if sides[one] == split and one in set(stored)]
            assert len(stored) == world_count(world, modality, split)


def world_count(world: World, modality: str, split: str) -> int:
    return sum(
        row["modality"] == modality and row["split"] == split for row in read_jsonl(world.path("split") / "split.jsonl")
    )


def test_outputs_follow_their_schemas(world):
    for pattern, schema in (
        ("*-*-*.jsonl", "shard_record"),
        ("errors.jsonl", "error"),
        ("stats.json", "shard_stats"),
    ):
        for path in world.path("shards").glob(pattern):
            validate_file(path, schema)


def test_stored_ids_are_what_the_codec_says(world):
    record_set = ShardSet.open(world.path("shards"), "image", "test", world.space)
    record = record_set.record(3)
    picture = load_image(world.path("corpus") / record["media"]["path"])
    (codes,) = registry.load_image(world.path("codecs") / "image").encode([picture])
    assert (world.space.image_from_global(record_set.ids(3)) == codes).all()


def test_sounds_are_cut_before_they_are_encoded(world):
    record_set = ShardSet.open(world.path("shards"), "audio", "test", world.space)
    record = record_set.record(0)
    codec = registry.load_audio(world.path("codecs") / "audio")
    wave = load_audio(world.path("corpus") / record["media"]["path"], codec.sample_rate, 1)
    assert record["clipped"] and wave.shape[1] == 16_000 and record["samples"] == 8_000
    (codes,) = codec.encode([wave[:, :8_000]])
    assert (world.space.audio_from_global(record_set.ids(0)) == codes.codes).all()
    assert record["n_tokens"] == record["frames"] * record["n_codebooks"] == codec.frames(8_000) * 2


def damaged(world: World, folder: Path, spoil) -> World:
    """The world with a copy of its corpus in which ``spoil`` did something to a file."""
    for stage in ("corpus", "manifest", "split", "codecs", "token_space"):
        shutil.copytree(world.path(stage), folder / stage)
    spoil(folder / "corpus" / "media")
    return World(folder, world.profile, {})


def test_a_damaged_file_costs_one_record(world, folder):
    def spoil(media):
        (media / "sounds" / "sound-00040.wav").write_bytes(b"RIFF, or so it says")
        (media / "pictures" / "picture-00050.png").unlink()

    hurt = damaged(world, folder, spoil)
    out = hurt.run("shards")
    errors = read_jsonl(out / "errors.jsonl")
    assert [row["id"] for row in errors] == ["generated/sound-00040", "generated/picture-00050"]
    assert "not a readable sound" in errors[0]["what"] and str(folder) not in errors[0]["what"]
    assert errors[1]["where"] == "corpus/media/pictures/picture-00050.png"
    validate_file(out / "errors.jsonl", "error")
    for modality in ("audio", "image"):
        stored = [
            r["id"] for s in ("train", "val", "test") for r in ShardSet.open(out, modality, s, hurt.space).records
        ]
        whole = [
            r["id"] for s in ("train", "val", "test") for r in ShardSet.open(world.path("shards"), modality, s).records
        ]
        assert stored == [one for one in whole if one not in {row["id"] for row in errors}]


def test_when_nothing_of_a_modality_can_be_encoded_the_run_says_so(world, folder):
    hurt = damaged(world, folder, lambda media: shutil.rmtree(media / "sounds"))
    with pytest.raises(UserError, match="no audio record could be encoded.*does not exist"):
        hurt.run("shards")


class Picky:
    """A codec that refuses silence, as a batch and alone."""

    def __init__(self, codec):
        self.codec, self.batches = codec, []

    def __getattr__(self, name):
        return getattr(self.codec, name)

    def encode(self, waves):
        self.batches.append(len(waves))
        if any(np.abs(wave).max() == 0 for wave in waves):
            raise RuntimeError("silence")
        return self.codec.encode(waves)


def test_a_codec_that_fails_on_one_sound_of_a_batch_keeps_the_others(world, folder):
    records = []
    for index, level in enumerate((0.1, 0.0, 0.2)):
        soundfile.write(folder / f"{index}.wav", level * np.sin(np.arange(8000) / 9), 16_000)
        records.append(
            {
                "id": str(index),
                "modality": "audio",
                "media": {"root": "here", "path": f"{index}.wav"},
                "audio": {"samples": 8000, "rate": 16_000},
            }
        )
    codec = Picky(registry.load_audio(world.path("codecs") / "audio"))
    encoder = AudioEncoder(codec, world.space, {"here": folder}, 1.0)
    results = encode_records(encoder, records, 8)
    assert codec.batches == [3, 1, 1, 1]
    assert results[1] == Failed("RuntimeError: silence")
    alone = encode_records(encoder, [records[2]], 8)[0]
    assert (results[2].ids == alone.ids).all()


def test_batches_hold_sounds_of_like_length(world, folder):
    lengths = [9000, 500, 8000, 600, 7000, 700]
    records = []
    for index, length in enumerate(lengths):
        soundfile.write(folder / f"{index}.wav", np.sin(np.arange(length) / 9), 16_000)
        records.append(
            {
                "id": str(index),
                "modality": "audio",
                "media": {"root": "here", "path": f"{index}.wav"},
                "audio": {"samples": length, "rate": 16_000},
            }
        )
    seen = []

    class Watching(Picky):
        def encode(self, waves):
            seen.append([wave.shape[1] for wave in waves])
            return self.codec.encode(waves)

    encoder = AudioEncoder(
        Watching(registry.load_audio(world.path("codecs") / "audio")), world.space, {"here": folder}, 1.0
    )
    results = encode_records(encoder, records, 3)
    assert seen == [[500, 600, 700], [7000, 8000, 9000]]
    assert [one.fields["samples"] for one in results] == lengths  # back in the order given


class Waiting:
    """An encoder that can encode its first batch only once the second is being loaded."""

    modality, identity = "audio", "x"

    def __init__(self):
        self.second = threading.Event()
        self.batches = []

    def size(self, record):
        return record

    def loaded_bytes(self, record):
        return record

    def load(self, record):
        if record == 5:
            raise ValueError("broken")
        if record >= 2:
            self.second.set()
        return record

    def encode(self, media):
        assert self.second.wait(10), "the next batch was not loaded meanwhile"
        self.batches.append(list(media))
        return [Encoded(np.array([one], np.int32), {}) for one in media]


@pytest.mark.parametrize("threads", [1, 4])
def test_the_next_batch_is_loaded_while_one_is_encoded(threads):
    encoder, done = Waiting(), []
    results = encode_records(encoder, [3, 0, 6, 5, 1, 2, 4], 2, done.append, threads)
    assert encoder.batches == [[0, 1], [2, 3], [4], [6]] and done == [2, 4, 6, 7]
    assert [one.error if isinstance(one, Failed) else one.ids.item() for one in results] == [
        *(3, 0, 6, "ValueError: broken", 1, 2, 4)
    ]


def test_a_batch_holds_few_media_where_they_are_large(monkeypatch):
    monkeypatch.setattr("mmpt.shards.encode.LOADED", 7)
    encoder = Waiting()
    encode_records(encoder, [3, 0, 6, 1, 2, 4, 9], 4)
    assert encoder.batches == [[0, 1, 2, 3], [4], [6], [9]]


def test_a_shard_of_another_token_space_is_refused(world, folder):
    content = world.space.to_json()
    content["special_tokens"] = {
        **content["special_tokens"],
        "<|extra|>": max(content["special_tokens"].values()) + 1,
    }
    from mmpt.tokens.space import from_json

    other: TokenSpace = from_json(content)
    with pytest.raises(UserError, match="another token space"):
        ShardSet.open(world.path("shards"), "audio", "train", other)


def test_a_sidecar_that_lost_a_line_is_refused(world, folder):
    shutil.copytree(world.path("shards"), folder / "shards")
    path = folder / "shards" / "audio-train-00000.jsonl"
    write_jsonl(path, read_jsonl(path)[:-1])
    with pytest.raises(UserError, match="sidecar does not belong.*found 15 lines"):
        _ = ShardSet.open(folder / "shards", "audio", "train").records


def test_indices_work_like_a_list(world):
    shards = ShardSet.open(world.path("shards"), "image", "train", world.space)
    assert len(shards.files) == 4 and len(shards) == 54
    flat = np.concatenate(list(shards.ids_by_shard()))
    assert np.concatenate([shards.ids(index) for index in range(len(shards))]).tolist() == flat.tolist()
    assert (shards.ids(-1) == shards.ids(53)).all() and shards.ids(16).dtype == np.int32
    with pytest.raises(IndexError):
        shards.ids(54)
    assert len(ShardSet.open(world.path("split"), "audio", "train")) == 0
