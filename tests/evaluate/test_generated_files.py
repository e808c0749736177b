"""Files that are not what their ids decode to are distinguished from those that are."""

from __future__ import annotations

import numpy as np
import pytest

from mmpt.codecs.protocol import AudioCodes
from mmpt.evaluate import golden
from mmpt.evaluate.generated_files import file_metrics, is_decoded_from
from mmpt.evaluate.sets import golden_sets
from mmpt.evaluate.trend import TrendEvaluator
from mmpt.generate import Generated
from mmpt.store.jsonl import write_jsonl
from tests.gating.gate_evidence import completed, failing, judged

SETTING = golden.DecodingSettings(seed=0)


@pytest.fixture
def written(run, tmp_path, monkeypatch):
    """written(fault, replacement): (decoder, rows by task) of files made while that name in golden is replaced."""
    decoder, sets = TrendEvaluator.of(run.context("trend")).decoder, golden_sets(run.data("golden"))

    def of(fault: str = "", replacement=None):
        rows = {}
        with monkeypatch.context() as patch:
            if fault:
                patch.setattr(golden, fault, replacement)
            for task in ("t2a", "t2i"):
                made = [Generated(np.array(one["target_ids"], np.int32), True, 1.0) for one in sets[task]]
                rows[task] = golden.output_rows(decoder, sets[task], made, SETTING, 4, "greedy", tmp_path)
                write_jsonl(tmp_path / f"step_4_golden_{task}.jsonl", rows[task])
        return decoder, rows

    return of


def unlike(decoder, folder):
    metrics = file_metrics(decoder.space, decoder.codecs, folder, 4, 0)
    return {one.slice: one.value for one in metrics}, failing(judged("B4", completed("B4", metrics, 16)))


def test_files_are_what_their_ids_decode_to(written, tmp_path):
    decoder, rows = written()
    assert unlike(decoder, tmp_path) == ({"t2a": 0, "t2i": 0}, set())
    for task in rows:
        one, other = rows[task][0], next(row for row in rows[task] if row["ids"] != rows[task][0]["ids"])
        swapped = {**one, "path": other["path"]}
        assert is_decoded_from(decoder.space, decoder.codecs, one, tmp_path, 0)
        assert not is_decoded_from(decoder.space, decoder.codecs, swapped, tmp_path, 0)


def backwards(codecs, space, ids, meta=None):
    return codecs.audio.decode([AudioCodes(space.audio_from_global(ids)[:, ::-1])])[0]


def louder(codecs, space, ids, meta=None):
    return 1.01 * codecs.audio.decode([AudioCodes(space.audio_from_global(ids))])[0]


@pytest.mark.parametrize("fault", [backwards, louder])
def test_sounds_of_other_codes_or_another_level_fail(written, tmp_path, fault):
    counts, failed = unlike(written("decode_audio", fault)[0], tmp_path)
    assert counts == {"t2a": 4, "t2i": 0} and failed == {"decoded [t2a]"}


def test_pictures_of_reversed_tokens_fail(written, tmp_path):
    right = golden.decode_image
    counts, failed = unlike(written("decode_image", lambda c, s, ids, seed: right(c, s, ids[::-1], seed))[0], tmp_path)
    assert counts["t2i"] >= 3 and counts["t2a"] == 0 and failed == {"decoded [t2i]"}


def test_a_file_that_is_gone_or_broken_is_unlike(written, tmp_path):
    decoder, rows = written()
    one, two = rows["t2i"][:2]
    (tmp_path / one["path"]).unlink()
    (tmp_path / two["path"]).write_bytes(b"no picture")
    assert unlike(decoder, tmp_path)[0] == {"t2a": 0, "t2i": 2}
    assert not is_decoded_from(decoder.space, decoder.codecs, {**rows["t2a"][0], "path": None}, tmp_path, 0)
