"""The negative control of B3 and C2: a model that really learned its prompts passes, on shuffled captions it fails.

The task is small enough for seconds: the first id of a caption decides the picture (tests/train/small_run.py).
"""

from __future__ import annotations

import pytest
import torch

from mmpt.evaluate import ablation as abl
from mmpt.shards.loader import make_loader
from mmpt.store.evidence import Metric
from mmpt.train.loop import train
from tests.gating.gate_evidence import completed, failing, judged
from tests.model.tiny_model import IMAGE
from tests.train.small_run import ROW, Examples, fresh, small_settings

ITEMS, STEPS = 2 * IMAGE**2, 220
T2I = {"weights": {"a2t": 0.1, "i2t": 0.1, "t2a": 0, "t2i": 0.8, "text": 0}, "prompt_dropout": 0.1}
PROFILE = {"codecs": {"image": {"name": "patchvq"}}, "mixture": T2I}


class Described(Examples):
    """Captions whose first id is one of twelve words. Shuffled: each word is with each picture equally often."""

    def __init__(self, space, shuffled=False):
        super().__init__(space, "t2i", ITEMS)
        for i, text in enumerate(self.texts):
            text[0] = i % IMAGE
            self.payloads[i] = self._payload(i // IMAGE % IMAGE if shuffled else i % IMAGE)


def learned(folder, shuffled: bool):
    """(ablation before training, ablation after)."""
    torch.set_num_threads(1)
    model = fresh(folder / "base")
    loader = make_loader(
        {"t2i": Described(model.space, shuffled)},
        weights={"t2i": 1.0},
        text_replay=0.0,
        ramp=0.0,
        steps=STEPS,
        tokens_per_step=480,
        row_len=ROW,
        pad_id=model.space.special("pad_mm"),
        prompt_dropout=0.1,
        seed=0,
    )
    before = ablation(model)
    rates = {"lora": 2e-2, "embed": 3e-2, "head": 3e-2}
    train(model, loader, small_settings(STEPS, save_every=STEPS, log_every=STEPS, lr=rates), folder / "run")
    return before, ablation(model)


def ablation(model):
    """Losses with the true caption, with another picture's, and with none."""
    true = Described(model.space)
    others = [
        next(j for j in range(i + 1, i + ITEMS) if true.texts[j % ITEMS][0] != true.texts[i][0]) % ITEMS
        for i in range(ITEMS)
    ]
    records = [
        {
            "id": f"r{i}",
            "group": f"g{i}",
            "task": "t2i",
            "prompt_ids": true.texts[i].tolist(),
            "swap_prompt_ids": true.texts[j].tolist(),
            "target_ids": true.payloads[i].tolist(),
        }
        for i, j in enumerate(others)
    ]
    with torch.no_grad():
        return abl.ablate(model, model.space, records)


def verdicts(before, after):
    groups = abl.gap_interval(after, after.swapped, 300, 0).groups_metric("t2i")
    sound = [
        Metric("invalid_swaps", 0, ITEMS, slice="t2i"),
        Metric("swap_length_difference", 0.0, ITEMS, slice="t2i"),
    ]
    b3 = judged("B3", completed("B3", [*abl.gap_metrics(after, 300, 0), *sound, groups]), **PROFILE)
    grown = abl.growth(after, before, 300, 0)
    empty = abl.growth(after, before, 300, 0, "empty").metric("empty_gap_growth_nats", slice="t2i")
    return b3, judged(
        "C2", [grown.metric("gap_growth_nats", slice="t2i"), empty, grown.groups_metric("t2i")], **PROFILE
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_only_captions_that_describe_their_pictures_pass(tmp_path, shuffled):
    b3, c2 = verdicts(*learned(tmp_path, shuffled))
    if shuffled:
        assert b3.verdict == c2.verdict == "NO_GO" and failing(c2) == {"growth [t2i]"}
        assert {"win_swapped [t2i]", "gap_swapped [t2i]", "mean_swapped_t2i [t2i]"} <= failing(b3)
    else:
        assert (b3.verdict, c2.verdict) == ("GO", "GO"), (b3.reason, c2.reason)
