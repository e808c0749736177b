"""What `doit fit` counts before anything is tokenised: lengths, drops, steps, and the choice that drops
least."""

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.shards.fitting import KEEP, Choice, keeps, longest_row, mean_step, propose
from mmpt.shards.lengths import Corpus, ImageShape, audio_shape, encodec_shape, image_shape, read_corpus
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl

SEED = ImageShape("seed", 32, 8192)


def corpus(seconds=(10.0, 4.0, 7.0, 30.0), captions=(12, 20, 8, 60)):
    texts = np.array(captions)
    return Corpus({"audio": texts, "image": texts}, np.array(seconds), ())


@pytest.mark.parametrize(
    "shape, seconds, frames",
    [
        (encodec_shape(False, 4), 10.0, 750),
        (encodec_shape(False, 4), 0.001, 1),
        (encodec_shape(True, 4), 10.0, 10 * 150 + 15),  # eleven chunks; the last holds the overlaps' rest
        (encodec_shape(True, 4), 1.0, 152),  # one second is two chunks
    ],
)
def test_encodec_gives_its_published_number_of_frames(shape, seconds, frames):
    assert shape.frames(round(seconds * shape.rate)) == frames
    payloads = corpus([seconds], [5]).payloads(shape, SEED, 10.0)
    assert payloads["audio"].tolist() == [frames * 4] and payloads["image"].tolist() == [32]


def test_a_clip_is_cut_to_its_length():
    payloads = corpus().payloads(encodec_shape(False, 4), None, 8.0)
    assert payloads["audio"].tolist() == [8 * 300, 4 * 300, 7 * 300, 8 * 300] and "image" not in payloads


@pytest.mark.parametrize(
    "section, expected",
    [
        ({"name": "patchvq", "size": 48, "patch": 12, "codebook_size": 320}, (16, 320)),
        ({"name": "seed"}, (32, 8192)),
        ({"name": "llamagen", "options": {"size": 384}}, (576, 16_384)),
    ],
)
def test_known_picture_codecs_need_not_be_built(tmp_path, section, expected):
    shape = image_shape(section, tmp_path)
    assert (shape.tokens, shape.codebook_size) == expected


def test_known_sound_codecs_need_not_be_built_and_others_must(tmp_path):
    shape = audio_shape({"name": "melrvq", "clip_seconds": 1, "n_codebooks": 2, "options": {"stack": 8}}, tmp_path)
    assert shape.frames(16_000) == 10 and shape.n_codebooks == 2
    assert audio_shape({"name": "encodec", "path": "facebook/encodec_48khz"}, tmp_path).rate == 48_000
    with pytest.raises(UserError, match="unknown audio codec"):
        audio_shape({"name": "mimi"}, tmp_path)


def test_too_long_records_are_dropped_by_task_and_prompts_are_shortened():
    choice = Choice(10.0, 4, 3000 + 5 + 12, 16)
    kept = keeps(corpus(), encodec_shape(False, 4), SEED, choice)
    # 10 s are 3000 tokens: with captions of 12 and 60 they need 3017 and 3065; a prompt may be shortened, a
    # caption not.
    assert kept["a2t"].kept == 3 and kept["a2t"].dropped == 0.25 and kept["a2t"].longest == 3017
    assert kept["t2a"].kept == 4 and kept["t2a"].shortened == 2
    assert kept["a2t"].whole == (3065, 3065, 3065) and kept["t2a"].whole[0] == 3006
    assert kept["i2t"].mean == 32 + 5 + 25 and kept["t2i"].supervised == 33


def test_a_mean_step_has_the_mixtures_shares_and_its_tokens():
    kept = keeps(corpus(), encodec_shape(False, 2), SEED, Choice(2.0, 2, 4096, 64))
    weights = dict.fromkeys(("a2t", "i2t", "t2a", "t2i"), 0.25)
    step = mean_step(kept, weights, 0.0, tokens_per_step=8192, row_len=1024, steps=100, seed=1)
    assert step.tokens == pytest.approx(8192, rel=0.05)
    counts = list(step.examples.values())
    assert max(counts) - min(counts) < 1 and step.passes["t2a"] == pytest.approx(100 * counts[2] / 4)
    assert step.rows * 1024 * (1 - step.padding) == pytest.approx(step.tokens)
    assert step.rows <= step.rows_most


def test_the_proposal_drops_least_and_then_keeps_most_of_the_sound():
    audio, now = encodec_shape(False, 4), Choice(10.0, 4, 1024, 64)
    found = propose(corpus(), audio, SEED, now, lambda row: row / 4096)
    assert found[0].choice.seconds == 10.0 and found[0].choice.n_codebooks == 4 and found[0].worst == 0.0
    assert found[0].choice.max_seq_len == 3072  # 3065 in steps of 64
    tight = propose(corpus(), audio, SEED, now, lambda row: row / 1600)
    best = tight[0]
    assert best.worst <= 1 - KEEP and best.choice.max_seq_len <= 1600
    assert best.choice.seconds * best.choice.n_codebooks == 20  # half of the sound, in one way or the other
    assert all(one.worst >= best.worst for one in tight)
    assert propose(corpus(), audio, SEED, now, lambda row: 2.0) == []


def test_the_longest_row_is_found():
    tried = []

    def share(row):
        tried.append(row)
        return 0.1 + 0.9 * row / 3000

    assert longest_row(share) == 2944 and len(tried) <= 5
    assert longest_row(lambda row: (row / 3000) ** 2) == 2944  # a mask of all pairs
    assert longest_row(lambda row: 0.0 if row <= 3000 else 9.0) == 2944
    assert longest_row(lambda row: 2.0) == 0 and longest_row(lambda row: 0.5) == 1 << 17


def test_without_a_manifest_lengths_are_assumed_and_said_to_be(tmp_path):
    found = read_corpus(tmp_path, 10.0, None)
    texts = np.sort(found.texts["audio"])
    assert texts[len(texts) // 2] == 13 and texts[len(texts) * 9 // 10] == 20 and set(found.seconds) == {10.0}
    assert sum("assumed" in line for line in found.basis) == 3


def test_before_the_first_build_the_sources_are_read(tmp_path):
    rows = [{"id": f"s{n}", "audio": f"{n}.wav", "caption": "rain on a roof"} for n in (1, 2, 3)]
    for n in (1, 2, 3):
        soundfile.write(tmp_path / f"{n}.wav", np.zeros(n * 8000), 8000)
    soundfile.write(tmp_path / "p.wav", np.zeros(8), 8000)
    Image.new("RGB", (4, 4)).save(tmp_path / "p.png")
    write_jsonl(tmp_path / "captions.jsonl", [*rows, {"id": "p", "image": "p.png", "caption": "red"}, {"id": "bad"}])
    source = {"name": "mine", "reader": "captions", "path": str(tmp_path)}
    found = read_corpus(tmp_path, 10.0, lambda texts: [len(text.split()) for text in texts], [source])
    assert found.seconds.tolist() == [1.0, 2.0, 3.0] and found.texts["audio"].tolist() == [4, 4, 4]
    assert found.texts["image"].tolist() == [1]
    assert found.basis == (
        "records: 3 audio, 1 image, read from the sources; no split yet",
        "sounds: the durations of 3 files",
        "captions: counted",
    )
    pictures = read_corpus(tmp_path, None, None, [source])
    assert set(pictures.texts) == {"image"} and "captions: assumed" in pictures.basis[2]
    gone = read_corpus(tmp_path, 10.0, None, [source, {"name": "g", "reader": "generated", "pictures": 1, "sounds": 1}])
    assert sum("assumed" in line for line in gone.basis) == 3, "not all of it can be read"


def test_a_manifest_is_read_and_only_its_training_side(tmp_path):
    rows = [
        {
            "id": "a",
            "modality": "audio",
            "caption": "rain on a roof",
            "audio": {"samples": 48_000, "rate": 16_000},
        },
        {"id": "b", "modality": "audio", "caption": "rain", "audio": {"samples": 8_000, "rate": 16_000}},
        {"id": "c", "modality": "image", "caption": "a red circle", "image": {}},
    ]
    for stage, name, content in (
        ("manifest", "manifest.jsonl", rows),
        ("split", "split.jsonl", [{"id": i, "split": "test" if i == "b" else "train"} for i in "abc"]),
    ):
        (tmp_path / stage / "data").mkdir(parents=True)
        write_jsonl(tmp_path / stage / "data" / name, content)
    found = read_corpus(tmp_path, 10.0, lambda texts: [len(text.split()) for text in texts])
    assert found.seconds.tolist() == [3.0] and found.texts["audio"].tolist() == [4]
    assert found.texts["image"].tolist() == [3] and not any("assumed" in line for line in found.basis)
