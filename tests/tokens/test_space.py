"""The token space: layout, digest, reference files, id maps."""

import hashlib
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.store.errors import UserError
from mmpt.tokens.space import build_token_space, from_json, load, upstream_sha

IMAGE = {"name": "patchvq", "identity": "a" * 64, "codebook_size": 512, "tokens_per_image": 64}
AUDIO = {
    "name": "melrvq",
    "identity": "b" * 64,
    "n_codebooks": 4,
    "codebook_size": 256,
    "sample_rate": 16_000,
}
TEXT = {"identity": "c" * 64, "vocab_size": 300}


def small(**changes):
    given = dict(
        base_text_model="tiny",
        text_vocab_size=300,
        n_special=64,
        image_tokenizer=IMAGE,
        audio_codec=AUDIO,
        text_tokenizer=TEXT,
    )
    return build_token_space(**{**given, **changes})


def reference_content(**changes):
    """A token_space.json as the reference writes it: created_utc, absolute paths and devices inside."""
    ranges, at = {}, 0
    for name, size in [
        ("TEXT", 151_669),
        ("SPECIAL", 64),
        ("IMAGE", 8192),
        *((f"AUDIO_CB{k}", 1024) for k in range(4)),
    ]:
        ranges[name] = {"start": at, "end": at + size - 1, "size": size}
        at += size
    roles = "text_start text_end img_start img_end aud_start aud_end gen_text gen_img gen_aud pad_mm".split()
    return {
        "version": "uti_v1",
        "created_utc": "2026-01-02T03:04:05Z",
        "base_text_model": "Qwen/Qwen3-8B-Base",
        "text_vocab_size": 151_669,
        "special_tokens": {f"<|{r}|>": 151_669 + i for i, r in enumerate(roles)},
        "ranges": ranges,
        "image_tokenizer": {
            "name_or_path": "AILab-CVC/seed-tokenizer-2",
            "local_path": "/data/seed.pt",
            "device": "cuda",
            "fp16": True,
            "codebook_size": 8192,
        },
        "audio_codec": {
            "name_or_path": "facebook/encodec_48khz",
            "local_path": "/data/encodec",
            "device": "cuda",
            "n_codebooks": 4,
            "codebook_size": 1024,
            "target_sample_rate": 48_000,
            "channels": 2,
        },
        "vocab_size_total": at,
        **changes,
    }


def write_reference(folder, content):
    (folder / "token_space.json").write_text(json.dumps(content, indent=2))
    sha = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / "token_space.sha256").write_text(sha + "\n")


def test_the_reference_numbers_come_out():
    space = build_token_space(
        base_text_model="Qwen/Qwen3-8B-Base",
        text_vocab_size=151_669,
        n_special=64,
        image_tokenizer={"codebook_size": 8192},
        audio_codec={"n_codebooks": 4, "codebook_size": 1024},
    )
    assert space.vocab_size_total == 164_021 and space.n_new == 12_352 and space.new_start == 151_669
    assert (space.ranges["IMAGE"].start, space.ranges["IMAGE"].end) == (151_733, 159_924)
    assert (space.ranges["AUDIO_CB3"].start, space.ranges["AUDIO_CB3"].end) == (162_997, 164_020)
    assert space.special("aud_start") == 151_673 and space.special("pad_mm") == 151_678


def test_a_saved_space_loads_with_its_digest(tmp_path):
    small().save(tmp_path)
    again = load(tmp_path)
    assert again.digest == small().digest == (tmp_path / "token_space.sha256").read_text().strip()
    assert again.to_json() == small().to_json()


def test_a_space_may_have_one_modality():
    only_audio = small(image_tokenizer=None)
    assert list(only_audio.ranges) == ["TEXT", "SPECIAL", *(f"AUDIO_CB{k}" for k in range(4))]
    with pytest.raises(UserError, match="no image segment"):
        only_audio.image_to_global([1])
    with pytest.raises(UserError, match="no audio segment"):
        small(audio_codec=None).audio_to_global(np.zeros((4, 1), int))


@pytest.mark.parametrize(
    "change",
    [
        {"text_vocab_size": 301},
        {"n_special": 65},
        {"image_tokenizer": {**IMAGE, "identity": "d" * 64}},
        {"audio_codec": {**AUDIO, "identity": "d" * 64}},
        {"image_tokenizer": {**IMAGE, "codebook_size": 511}},
        {"audio_codec": {**AUDIO, "n_codebooks": 3}},
        {"audio_codec": {**AUDIO, "sample_rate": 24_000}},
        {"text_tokenizer": {**TEXT, "identity": "d" * 64}},
        {"image_tokenizer": None},
    ],
)
def test_the_digest_sees_what_changes_the_meaning_of_an_id(change):
    assert small(**change).digest != small().digest


@pytest.mark.parametrize(
    "change",
    [
        {"image_tokenizer": {**IMAGE, "local_path": "/home/a", "device": "cuda", "fp16": True}},
        {"audio_codec": {**AUDIO, "clip_seconds": 10.0, "local_path": "/home/b"}},
        {"base_text_model": "/somewhere/else"},  # the tokenizer's own digest says what it is
    ],
)
def test_the_digest_does_not_see_places_devices_or_clip_lengths(change):
    assert small(**change).digest == small().digest


def test_the_digest_of_a_reference_file_survives_a_rebuild_elsewhere(tmp_path):
    here = from_json(reference_content())
    moved = reference_content(created_utc="2026-05-05T05:05:05Z")
    moved["audio_codec"] = {**moved["audio_codec"], "local_path": "/other", "device": "cpu"}
    assert from_json(moved).digest == here.digest
    other = reference_content(audio_codec={**moved["audio_codec"], "name_or_path": "facebook/encodec_24khz"})
    assert from_json(other).digest != here.digest


def test_the_digest_sees_where_the_segments_lie():
    def space(image, book):
        return build_token_space(
            base_text_model="tiny",
            text_vocab_size=9,
            n_special=10,
            image_tokenizer={"codebook_size": image},
            audio_codec={"n_codebooks": 1, "codebook_size": book},
        ).to_json()

    one, two = space(100, 200), space(200, 100)
    for content in (one, two):  # nothing but the ranges tells them apart
        content["image_tokenizer"] = content["audio_codec"] = {"name": "unknown"}
    assert from_json(one).digest != from_json(two).digest


def test_reference_files_load_and_keep_their_content(tmp_path):
    content = reference_content()
    write_reference(tmp_path, content)
    space = load(tmp_path / "token_space.json")
    assert space.vocab_size_total == 164_021 and space.n_codebooks == 4
    assert space.to_json() == content
    (tmp_path / "copy").mkdir()
    space.save(tmp_path / "copy")
    assert (tmp_path / "copy/token_space.sha256").read_text() == (tmp_path / "token_space.sha256").read_text()


def test_a_reference_sha_is_held_to_the_references_own_rule(tmp_path):
    content = reference_content()
    write_reference(tmp_path, content)
    assert upstream_sha(content) == (tmp_path / "token_space.sha256").read_text().strip()
    (tmp_path / "token_space.json").write_text(json.dumps({**content, "created_utc": "2026-01-02T03:04:06Z"}))
    with pytest.raises(UserError, match="token_space.sha256 doesn't belong"):
        load(tmp_path)


def test_an_edited_space_of_ours_is_refused(tmp_path):
    small().save(tmp_path)
    path = tmp_path / "token_space.json"
    path.write_text(path.read_text().replace("b" * 64, "e" * 64))
    with pytest.raises(UserError, match="token_space.sha256 doesn't belong"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("ranges", "IMAGE", "end"), 159_925, "wrong size"),
        (("ranges", "AUDIO_CB1", "start"), 160_948, "wrong size"),
        (("vocab_size_total",), 164_022, "vocab_size_total disagrees"),
        (("text_vocab_size",), 151_936, "text_vocab_size disagrees"),
        (("special_tokens", "<|aud_end|>"), 151_733, "outside SPECIAL"),
        (("special_tokens", "<|aud_end|>"), 151_673, "share an id"),
        (("audio_codec", "n_codebooks"), 8, "n_codebooks disagrees"),
        (("image_tokenizer", "codebook_size"), 8191, "codebook_size disagrees"),
    ],
)
def test_a_layout_that_does_not_hold_together_is_refused(path, value, message):
    content = reference_content()
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(UserError, match=message):
        from_json(content)


def test_overlapping_and_missing_segments_are_refused():
    content = reference_content()
    content["ranges"]["AUDIO_CB1"] = {"start": 160_950, "end": 161_973, "size": 1024}
    with pytest.raises(UserError, match="AUDIO_CB1 isn't contiguous"):
        from_json(content)
    del content["ranges"]["SPECIAL"]
    with pytest.raises(UserError, match="missing, unknown or out of order"):
        from_json(content)
    del content["special_tokens"]
    with pytest.raises(UserError, match="keys missing.*special_tokens"):
        from_json(content)


def test_audio_ids_run_frame_by_frame():
    space = small()
    codes = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    starts = [space.ranges[f"AUDIO_CB{k}"].start for k in range(4)]
    assert space.audio_to_global(codes).tolist() == [
        starts[0] + 0,
        starts[1] + 2,
        starts[2] + 4,
        starts[3] + 6,
        starts[0] + 1,
        starts[1] + 3,
        starts[2] + 5,
        starts[3] + 7,
    ]
    assert space.audio_to_global(codes).dtype == np.int32


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 6), st.integers(1, 300), st.integers(0, 40), st.integers(0, 2**32 - 1))
def test_id_maps_agree_with_a_loop_and_come_back(n_codebooks, size, frames, seed):
    space = small(audio_codec={"n_codebooks": n_codebooks, "codebook_size": size})
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size, (n_codebooks, frames))
    naive = [space.ranges[f"AUDIO_CB{k}"].start + int(codes[k, t]) for t in range(frames) for k in range(n_codebooks)]
    ids = space.audio_to_global(codes)
    assert ids.tolist() == naive
    assert np.array_equal(space.audio_from_global(ids), codes)
    picture = rng.integers(0, 512, 64)
    there = space.image_to_global(picture)
    assert [space.segment(int(i)) for i in there[:3]] == ["IMAGE"] * 3
    assert np.array_equal(space.image_from_global(there), picture)


def test_a_code_outside_its_codebook_is_named():
    space = small()
    codes = np.zeros((4, 9), int)
    codes[2, 7] = 256
    with pytest.raises(UserError, match="256 in codebook 2, frame 7.*expected 0..255"):
        space.audio_to_global(codes)
    with pytest.raises(UserError, match="image code out of range: -1 at position 1"):
        space.image_to_global([3, -1])


def test_an_id_outside_its_segment_is_named():
    space = small()
    ids = space.audio_to_global(np.zeros((4, 3), int))
    ids[5] = space.ranges["AUDIO_CB2"].start
    with pytest.raises(UserError, match=r"at position 5 \(frame 1, codebook 1\).*AUDIO_CB2.*expected.*AUDIO_CB1"):
        space.audio_from_global(ids)
    with pytest.raises(UserError, match="whole frames"):
        space.audio_from_global(ids[:5])
    with pytest.raises(UserError, match="text id out of range: 300 at position 0"):
        space.check_text([300])
    with pytest.raises(UserError, match="not integers"):
        space.image_to_global([0.5])
