"""Measures of free-running outputs, each on inputs where the answer is known."""

import numpy as np
import pytest

from mmpt.corpus.generated import generate_pictures, generate_sounds
from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.quality import (
    codebook_usage,
    duplicate_rate,
    longest_run,
    looped_rate,
    nearest_share,
    oracle_hits,
    token_f1,
)
from mmpt.tokens import build_token_space
from mmpt.tokens.stream import Stream

SPACE = build_token_space(
    base_text_model="tiny",
    text_vocab_size=30,
    n_special=12,
    image_tokenizer={"codebook_size": 20},
    audio_codec={"n_codebooks": 2, "codebook_size": 15},
)


def row(ids, caption="a", attributes=None, mentioned=None):
    return {"ids": list(ids), "caption": caption, "attributes": attributes, "mentioned": mentioned}


def test_duplicates_count_only_across_prompts_that_say_something_else():
    red = {"attributes": {"colour": "red", "size": "small"}, "mentioned": ["colour"]}
    assert duplicate_rate([row([1], "a red one", **red), row([1], "one in red", **red)]) == 0.0
    assert (
        duplicate_rate(
            [
                row([1], "a red one", **red),
                row([1], "a small red one", **{**red, "mentioned": ["colour", "size"]}),
            ]
        )
        == 1.0
    )
    assert duplicate_rate([row([1, 2], "a"), row([1, 2], "b"), row([3], "c"), row([4], "d")]) == 0.5
    assert duplicate_rate([row([1, 2], "a"), row([1, 2], "a")]) == 0.0


def test_loops_are_runs_longer_than_any_target():
    still, lively = [7, 8] * 10, list(range(20))
    pairs = Stream((0, 1))
    assert longest_run(np.array(still), pairs) == 10 and longest_run(np.array(lively), pairs) == 1
    assert looped_rate([row(still), row(lively)], [np.array(lively)], pairs) == 0.5
    assert looped_rate([row(still), row(lively)], [np.array(still)], pairs) == 0.0


def test_usage_is_a_mean_over_codebooks():
    targets = [SPACE.audio_to_global(np.array([[0, 1, 2, 3], [0, 1, 2, 3]]))]
    half = SPACE.audio_to_global(np.array([[0, 1, 0, 1], [0, 0, 0, 0]]))
    assert codebook_usage([row(half)], targets, SPACE) == pytest.approx((2 / 4 + 1 / 4) / 2)


def test_the_oracle_reads_files_and_a_missing_one_is_wrong(tmp_path):
    rows = []
    for made, task, write in (
        *((one, "t2i", lambda p, m: write_png(p, m)) for one in generate_pictures(0, 6)),
        *((one, "t2a", lambda p, m: write_wav(p, m[None], 16000)) for one in generate_sounds(0, 6)),
    ):
        path = made.record["id"].replace("/", "_") + (".png" if task == "t2i" else ".wav")
        write(tmp_path / path, made.medium)
        rows.append({"task": task, "path": path, **{k: made.record[k] for k in ("attributes", "mentioned")}})
    hits = oracle_hits(rows, tmp_path)
    assert {name.split(".")[0] for name in hits} == {"image", "audio"}
    assert np.mean([hit for found in hits.values() for hit in found]) > 0.95
    wrong = oracle_hits([{**one, "path": None} for one in rows], tmp_path)
    assert not any(hit for found in wrong.values() for hit in found)
    assert {name: len(found) for name, found in wrong.items()} == {name: len(found) for name, found in hits.items()}


def test_caption_f1():
    assert token_f1("A red circle.", "a red circle") == 1.0
    assert token_f1("a blue square", "a red circle") == pytest.approx(1 / 3)
    assert token_f1("", "a red circle") == 0.0


def test_nearest_training_item():
    train = [np.array([1, 2, 3, 4]), np.array([1, 2, 3, 9]), np.array([5, 5])]
    assert nearest_share([row([1, 2, 3, 9]), row([5, 6]), row([1])], train) == [(1.0, 1), (0.5, 2), (0.0, -1)]
