"""Stage token_space: a tokenizer, texts without a word of val or test, and a space that names its codecs."""

import json
import subprocess
import sys

import pytest

from mmpt.shards.token_space import train_tokenizer, write_token_space
from mmpt.store.canonical import write_json
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext
from mmpt.tokens import load

LINES = [
    f"the {a} {b} is {c} the {d}"
    for a in ("red", "blue", "tall")
    for b in ("bird", "house")
    for c in ("near", "under")
    for d in ("tree", "old bridge", "river")
]
AUDIO = {
    "name": "melrvq",
    "kind": "audio",
    "identity": "a" * 64,
    "n_codebooks": 4,
    "codebook_size": 16,
    "sample_rate": 16_000,
    "channels": 1,
    "frame_rate": 20.0,
    "options": {"seed": 0},
    "clip_seconds": 1.0,
}
IMAGE = {
    "name": "patchvq",
    "kind": "image",
    "identity": "b" * 64,
    "codebook_size": 32,
    "tokens_per_image": 4,
    "grid": [2, 2],
    "proc_size": 8,
    "decode_size": 8,
}


def run(tmp_path, name="one", profile=None, codecs=("audio", "image"), seed=3):
    base = tmp_path / name
    for folder in ("manifest", "split", "codecs", "out"):
        (base / folder).mkdir(parents=True)
    records = [
        ("a", "train", "a red bird sings"),
        ("b", "train", "two blue houses"),
        ("c", "val", "VALIDATION words"),
        ("d", "test", "TEST words"),
    ]
    write_jsonl(base / "manifest/manifest.jsonl", [{"id": i, "caption": caption} for i, _, caption in records])
    write_jsonl(base / "split/split.jsonl", [{"id": i, "split": side} for i, side, _ in records])
    for about in (AUDIO, IMAGE):
        if about["kind"] in codecs:
            (base / "codecs" / about["kind"]).mkdir()
            write_json(base / "codecs" / about["kind"] / "codec.json", about)
    (tmp_path / "replay.txt").write_text("\n".join(LINES[:24]) + "\n\n")
    (tmp_path / "heldout.txt").write_text("\n".join(LINES[22:]) + "\n")
    text = {
        "vocab_size": 290,
        "replay_file": str(tmp_path / "replay.txt"),
        "heldout_file": str(tmp_path / "heldout.txt"),
    }
    whole = {
        "base": {"kind": "tiny"},
        "text": text,
        "token_space": {"n_special": 64},
        "codecs": {},
        **(profile or {}),
    }
    inputs = {stage: base / stage for stage in ("manifest", "split", "codecs")}
    write_token_space(
        StageContext(
            "token_space",
            SliceView(whole, tuple(whole), "token_space"),
            inputs,
            base / "out",
            tmp_path,
            seed=seed,
        )
    )
    return base / "out"


def test_the_space_is_laid_out_for_this_tokenizer_and_these_codecs(tmp_path):
    out = run(tmp_path)
    validate_file(out / "token_space.json", "token_space")
    space = load(out)
    assert space.text_vocab_size == 290 and space.n_new == 64 + 32 + 4 * 16
    assert (space.audio_codec["identity"], space.image_tokenizer["identity"]) == ("a" * 64, "b" * 64)
    assert space.text_tokenizer["vocab_size"] == 290
    assert str(tmp_path) not in (out / "token_space.json").read_text()


def test_transformers_loads_the_tokenizer_and_text_survives_it(tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run(tmp_path) / "tokenizer")
    assert len(tokenizer) == 290 and tokenizer.eos_token == "<|endoftext|>"
    for text in ("the red bird is near the old bridge", "Größe: 5 €, 漢字\n  indented\ttabs"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and max(ids) < 290


def test_texts_hold_train_captions_and_nothing_of_val_or_test(tmp_path):
    out = run(tmp_path)
    train, heldout = ((out / f"text_{which}.txt").read_text().splitlines() for which in ("train", "heldout"))
    assert {"a red bird sings", "two blue houses"} < set(train)
    assert not any("words" in line for line in train + heldout)
    assert heldout == LINES[22:] and not set(heldout) & set(train)  # two lines were in both files
    assert json.loads((out / "text_sources.json").read_text()) == {
        "sentences": 22,
        "captions": ["a", "b"],
        "heldout": 14,
    }


def test_a_space_with_one_codec_has_one_modality(tmp_path):
    assert load(run(tmp_path, codecs=("image",))).n_codebooks == 0
    assert load(run(tmp_path, "two", codecs=("audio",))).image_range is None


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    assert str(Manifest.of(run(tmp_path))) == str(Manifest.of(run(tmp_path, "two")))


def test_tokenizer_bytes_do_not_depend_on_process_or_threads(tmp_path):
    code = (
        "import sys, pathlib; from mmpt.shards.token_space import train_tokenizer as t;"
        "t(sys.stdin.read().splitlines(), 300, pathlib.Path(sys.argv[1]))"
    )
    train_tokenizer(LINES, 300, tmp_path / "here")
    for threads in ("1", "4"):
        there = tmp_path / threads
        subprocess.run(
            [sys.executable, "-c", code, there],
            input="\n".join(LINES),
            text=True,
            check=True,
            env={"RAYON_NUM_THREADS": threads, "PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": threads},
        )
        assert (there / "tokenizer.json").read_bytes() == (tmp_path / "here/tokenizer.json").read_bytes()


def test_a_pretrained_base_brings_its_own_tokenizer_and_no_captions(tmp_path):
    train_tokenizer(LINES, 270, tmp_path / "base")
    out = run(tmp_path, profile={"base": {"kind": "pretrained", "path": str(tmp_path / "base")}})
    assert (out / "tokenizer/tokenizer.json").read_bytes() == (tmp_path / "base/tokenizer.json").read_bytes()
    space = load(out)
    assert space.text_vocab_size == 270 and space.base_text_model == "base"
    assert "two blue houses" not in (out / "text_train.txt").read_text()


def test_a_base_without_a_tokenizer_is_refused(tmp_path):
    (tmp_path / "base").mkdir()
    with pytest.raises(UserError, match="no fast tokenizer.*expected tokenizer.json"):
        run(tmp_path, profile={"base": {"kind": "pretrained", "path": str(tmp_path / "base")}})


def test_a_missing_text_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such text file.*nowhere.txt"):
        run(tmp_path, profile={"text": {"heldout_file": "nowhere.txt"}})


def test_a_given_token_space_is_kept_as_it_is_if_it_fits(tmp_path):
    given = run(tmp_path)
    out = run(tmp_path, "two", {"token_space": {"n_special": 64, "expected": str(given / "token_space.json")}})
    assert (out / "token_space.json").read_bytes() == (given / "token_space.json").read_bytes()
    with pytest.raises(UserError, match="segment AUDIO_CB0 doesn't fit.*found 16 ids; expected 0 ids"):
        run(tmp_path, "three", {"token_space": {"n_special": 64, "expected": str(given)}}, codecs=("image",))


def test_generated_sentences_serve_where_no_file_is_given(tmp_path):
    out = run(tmp_path, profile={"text": {"vocab_size": 300, "train_sentences": 200, "heldout_sentences": 50}})
    train, heldout = ((out / f"text_{which}.txt").read_text().splitlines() for which in ("train", "heldout"))
    assert len(train) == 200 + 2 and len(set(heldout)) == 50 and not set(train) & set(heldout)
    other = run(
        tmp_path,
        "two",
        {"text": {"vocab_size": 300, "train_sentences": 200, "heldout_sentences": 50}},
        seed=4,
    )
    assert (other / "text_heldout.txt").read_text() != (out / "text_heldout.txt").read_text()
