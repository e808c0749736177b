"""Gate E1: what an output that never ends, ends early or trails off in silence does to the measure, and the bounds."""

import numpy as np
import pytest

from mmpt.evaluate import endings as end
from mmpt.evaluate.golden import DecodingSettings
from mmpt.evaluate.statistics import clopper_pearson
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from tests.gating.gate_evidence import failing, judged, undecided


class Codec:
    sample_rate, n_codebooks = 1000, 2

    def frames(self, samples):
        return max(1, samples // 100)


def row(ended=True, frames=10, tail=0.0, decoding="sampled", **more):
    return {
        "decoding": decoding,
        "ended": ended,
        "frames": frames,
        "ground_truth_frames": 10,
        "silent_tail_seconds": tail,
        "ground_truth_tail_seconds": 0.0,
        **more,
    }


def verdict(rows):
    return judged("E1", end.ending_metrics([*rows, *[row(decoding="greedy")] * 64], frame_rate=10.0))


def test_the_exact_bounds_are_those_of_the_tables():
    assert clopper_pearson(0, 300)[1] == pytest.approx(1 - 0.05 ** (1 / 300))
    assert clopper_pearson(4, 1000)[1] < 0.01 < clopper_pearson(5, 1000)[1]
    assert clopper_pearson(0, 10)[0] == 0.0 and clopper_pearson(10, 10) == (pytest.approx(0.05**0.1), 1.0)
    with pytest.raises(ValueError):
        clopper_pearson(1, 0)


def test_three_hundred_that_end_pass_and_fewer_do_not_decide():
    assert verdict([row()] * 300).verdict == "GO"
    assert undecided(verdict([row()] * 299)) == {"endless [t2a.sampled]"}


@pytest.mark.parametrize(("endless", "n", "passes"), [(1, 300, False), (4, 1000, True), (5, 1000, False)])
def test_the_upper_end_of_the_share_decides(endless, n, passes):
    """0.5 % of runaways (QwenLM/Qwen3-TTS#118) in 64 golden items would show in one run of four."""
    found = verdict([row(ended=False)] * endless + [row()] * (n - endless))
    assert failing(found) == (set() if passes else {"endless [t2a.sampled]"})


@pytest.mark.parametrize("frames", [8, 12])
def test_early_and_late_ends_fail(frames):
    assert failing(verdict([row(frames=frames)] * 300)) == {"duration [t2a.sampled]"}
    assert failing(verdict([row(frames=frames)] * 149 + [row()] * 151)) == set()


def test_silent_tails_are_told():
    found = verdict([row(tail=0.5)] * 300)
    assert found.verdict == "GO" and {one.id for one in found.warnings()} == {"silent_tails"}


@pytest.mark.parametrize(
    ("wave", "seconds"), [([1, 1, 1, 1], 0.0), ([1, 1, 0, 0], 0.04), ([0, 0, 0, 0], 0.08), ([1, 0, 1, 0], 0.02)]
)
def test_the_silent_tail_of_a_wave(wave, seconds):
    made = np.repeat(np.array(wave, np.float32), 20)[None] * 0.5  # windows of 20 ms at 1 kHz
    assert end.silent_tail(made, 1000) == pytest.approx(seconds)


def test_the_lengths_come_from_the_profile():
    assert end.LearnedEnd.of({}, Codec(), 2.0) == end.LearnedEnd(1, 40, end.OUTPUTS)
    asked = {"learned_end": {"min_seconds": 0.5, "max_seconds": 3.0, "outputs": 7}}
    assert end.LearnedEnd.of(asked, Codec(), 2.0) == end.LearnedEnd(5, 30, 7)
    with pytest.raises(UserError, match="no room for an end"):
        end.LearnedEnd.of({"learned_end": {"min_seconds": 4.0}}, Codec(), 2.0)


def test_samples_of_a_prompt_have_seeds_of_their_own():
    records = [{"id": str(i), "task": "t2a", "caption": "", "prompt_ids": [], "n_frames": 10} for i in range(3)]
    pieces = end.ending_pieces(records, end.LearnedEnd(1, 20, 8), DecodingSettings(seed=1, batch_size=2), 2)
    wanted = [one for piece in pieces for one in piece.wanted]
    drawn = [one for one in wanted if one.decoding == "sampled"]
    assert len(drawn) == 8 and len({one.seed(1) for one in drawn}) == 8
    assert [one.record["id"] for one in wanted if one.decoding == "greedy"] == ["0", "1", "2"]


def test_the_stage_writes_rows_and_sounds(run):
    folder = run.build("generate") / "qual" / "step_4" / end.FOLDER
    rows = read_jsonl(folder / "step_4_learned_end_t2a.jsonl")
    assert [one["decoding"] for one in rows].count("sampled") == 10
    assert all(1 <= one["frames"] <= 20 and (one["ended"] or one["frames"] == 20) for one in rows)
    assert {one["id"] for one in rows if one["path"]} == {one["id"] for one in rows if one["decoding"] == "greedy"}
    assert all((folder / one["path"]).is_file() for one in rows if one["path"])
