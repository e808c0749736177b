"""Gate L1's measure on a model that knows its task by construction, and on the faults it is there for."""

import numpy as np
import pytest
import torch

from mmpt.evaluate import alignment as al
from mmpt.evaluate.sets import ablation_sets
from mmpt.evaluate.statistics import mean_interval
from mmpt.generate import cache
from tests.gating.gate_evidence import failing, judged
from tests.model.tiny_model import CODEBOOKS, CODES, IMAGE, small_space

SPACE = small_space()


class Oracle:
    """Gives `sure` of the probability to the id that lies `ahead` places after the one to be predicted.

    Hidden states are the ids themselves: of a prompt and a payload whose next ids are known.
    """

    device = torch.device("cpu")

    def __init__(self, ahead: int = 0, sure: float = 0.9):
        self.ahead, self.sure = ahead, sure

    def hidden(self, ids):
        wanted = torch.roll(ids, -1 - self.ahead, dims=1)  # at place p: ids[p + 1 + ahead]
        return wanted[..., None].float()

    def logits(self, hidden):
        total = SPACE.vocab_size_total
        rest = np.log((1 - self.sure) / (total - 1))
        logits = torch.full((*hidden.shape[:-1], total), rest)
        return logits.scatter(-1, hidden.long(), np.log(self.sure))


def records(task, n=64, seed=0, stay=0.0):
    """Golden records of random payloads; `stay`: probability that an id repeats the one before it."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        if task == "t2a":
            target = SPACE.audio_to_global(rng.integers(0, CODES, (CODEBOOKS, 12)))
        else:
            codes = [int(rng.integers(IMAGE))]
            while len(codes) < 24:
                codes.append(codes[-1] if rng.random() < stay else int(rng.integers(IMAGE)))
            target = SPACE.image_to_global(np.array(codes))
        made.append(
            {"id": str(i), "task": task, "group": str(i), "prompt_ids": [1, 2, 3], "target_ids": target.tolist()}
        )
    return made


def margins(model, task, bigrams=None, **how):
    """Shift -> the lower end of the margin's interval."""
    shifts = al.shifts_of(SPACE, task)
    scored = [al.score(model, SPACE, record, shifts) for record in records(task, **how)]
    return {s: mean_interval(al.margins(scored, s, (bigrams or {}).get(s)), resamples=200, seed=0).low for s in shifts}


@pytest.mark.parametrize("task", ["t2a", "t2i"])
def test_own_tokens_cost_least(task):
    assert all(low > 1 for low in margins(Oracle(), task).values())


@pytest.mark.parametrize("ahead", [-2, -1, 1, 2])
@pytest.mark.parametrize("task", ["t2a", "t2i"])
def test_labels_shifted_by_tokens_are_seen(task, ahead):
    """QwenLM/Qwen3-TTS#371: labels shifted twice; the loss falls, and what is learned is the token after the next."""
    lows = margins(Oracle(ahead), task)
    assert lows[ahead] < 0 and min(lows, key=lows.get) == ahead


@pytest.mark.parametrize("frames", [-1, 1])
def test_labels_shifted_by_a_frame_are_seen(frames):
    shift = frames * SPACE.n_codebooks
    assert margins(Oracle(shift), "t2a")[shift] < 0


def test_a_shift_by_one_frame_is_among_those_compared():
    wide = small_space(n_codebooks=3)
    assert al.shifts_of(wide, "t2a") == (-3, -2, -1, 1, 2, 3)
    assert al.shifts_of(wide, "t2i") == (-2, -1, 1, 2)


class Repeats(Oracle):
    """A sound model of pictures that change slowly: it expects a repetition and spreads the rest."""

    def hidden(self, ids):
        return ids[..., None].float()


def test_a_sound_model_of_slow_media_passes_and_a_copy_does_not():
    slow = {"stay": 0.9, "n": 64}
    train = [np.array(one["target_ids"]) for one in records("t2i", 400, seed=1, stay=0.9)]
    bigrams = {s: al.Bigram(train, -s, SPACE.vocab_size_total) for s in (-2, -1)}
    assert margins(Repeats(sure=0.9), "t2i", **slow)[-1] < 0  # without the bigram it would be taken for a copy
    assert margins(Repeats(sure=0.9), "t2i", bigrams, **slow)[-1] > 0
    assert margins(Repeats(sure=0.9999), "t2i", bigrams, stay=0.0)[-1] < 0


def test_the_bigram_is_a_distribution():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 5, 200)
    bigram = al.Bigram([one], 2, 5)
    total = sum(np.exp(-bigram.losses(np.array([3, 0, x]))[2]) for x in range(5))
    assert total == pytest.approx(1.0)
    assert np.isnan(bigram.losses(one)[:2]).all() and np.isfinite(bigram.losses(one)[2:]).all()


@pytest.fixture(scope="module")
def measured(run):
    """alignment_metrics of the miniature run's last checkpoint."""

    def measure():
        workshop, trained = run.workshop(), run.trained()
        sets = ablation_sets(run.data("golden"))
        with workshop.opened(trained.path(trained.final)) as model:
            return al.alignment_metrics(model, workshop.space, sets, run.data("shards"), resamples=200, seed=0)

    return measure


def test_decoding_steps_predict_as_teacher_forcing_does(measured):
    metrics, losses = measured()
    ratios = {metric.slice: metric.value for metric in metrics if metric.name == "decoding_over_tolerance"}
    assert set(ratios) == {"a2t", "i2t", "t2a", "t2i"} and max(ratios.values()) < 0.05
    assert set(losses) == set(ratios) and all("0" in one and "+1" in one for one in losses.values())


def test_a_cache_that_hides_the_newest_id_is_seen(measured, monkeypatch):
    """Red team: the newest key masked out was GO, because all blocking evidence was teacher-forced."""
    right = cache.SlotCache.take_step

    def stale(self, positions, width):
        return right(self, (positions - 1).clamp(min=0), width)

    monkeypatch.setattr(cache.SlotCache, "take_step", stale)
    ratios = [metric.value for metric in measured()[0] if metric.name == "decoding_over_tolerance"]
    assert min(ratios) > 1  # though a model that has hardly learned depends little on one id


def test_evidence_of_the_faults_fails_the_gate():
    sound = [
        al.Metric("shift_margin_nats", 4.0, 64, "", "higher", 3.0, 5.0, f"{t}.{s:+d}")
        for t in ("a2t", "i2t", "t2a", "t2i")
        for s in al.SHIFTS
    ]
    agrees = [
        al.Metric("decoding_over_tolerance", 1e-4, 64, "", "lower", slice=t) for t in ("a2t", "i2t", "t2a", "t2i")
    ]
    assert judged("L1", [*sound, *agrees]).verdict == "GO"
    frame = al.Metric("shift_margin_nats", -1.0, 64, "", "higher", -1.5, -0.5, "t2a.+4")
    assert failing(judged("L1", [*sound, frame, *agrees])) == {"shift [t2a.+4]"}
    off = [
        al.Metric("decoding_over_tolerance", 20.0, 64, "", "lower", slice="t2i") if m.slice == "t2i" else m
        for m in agrees
    ]
    assert failing(judged("L1", [*sound, *off])) == {"decoding [t2i]"}
