"""Outputs of a faulty decoder are distinguished from those of a sound one, on a model that has hardly learned."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpt.evaluate import outputs
from mmpt.evaluate.golden import DecodingSettings, generate_golden
from mmpt.evaluate.sets import golden_sets
from mmpt.model.multimodal import MultimodalLM
from mmpt.model.plain import PlainLM

TASKS = ("a2t", "i2t", "t2a", "t2i")


@pytest.fixture(scope="module")
def loud_base(run, tmp_path_factory):
    """The base with matrices four times as large: before it has learned, the last id alone decides the next."""
    folder = tmp_path_factory.mktemp("loud") / "base"
    shutil.copytree(run.data("base"), folder)
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    save_file(
        {name: one * (4.0 if ".layers." in name and one.ndim == 2 else 1.0) for name, one in tensors.items()},
        path,
        {"format": "pt"},
    )
    return folder


@pytest.fixture(scope="module")
def judge(run, loud_base):
    """Share of positions that are not greedy, by task, of what `change`d golden sets or a patched model give."""
    shop, trained, sets = replace(run.workshop(), base=loud_base), run.trained(), golden_sets(run.data("golden"))
    checkpoint = trained.path(trained.final)
    plain = PlainLM.open(loud_base / "model", checkpoint, shop.space)

    def rates(change=lambda records: records, guidance: float = 1.0, told: float = 1.0):
        setting = DecodingSettings(seed=0, guidance=guidance, max_text_tokens=6)
        asked_for = {task: change(records) for task, records in sets.items()}
        with shop.opened(checkpoint) as model:
            made = generate_golden(model, shop.space, asked_for, setting, decodings=("greedy",), free=False)
        scored = {}
        for task, records in sets.items():
            rows = [{"ids": one.ids.tolist(), "ended": one.ended} for one in made[task, "greedy"].golden]
            asked = outputs.Asked.of(records, run.data("shards"), shop.tokenizer, shop.space)
            with_guidance = told if task in outputs.EMIT_TASKS else 1.0
            scored[task] = outputs.scored_rows(plain, shop.space, asked, rows, torch.float32, with_guidance)
        return {one.slice: one.value for one in outputs.argmax_metrics(scored)}, scored

    return rates


def test_what_the_engine_decodes_is_what_a_plain_forward_prefers(judge):
    rates, scored = judge()
    assert rates == dict.fromkeys(TASKS, 0.0)
    assert all(row["positions"] >= 1 for rows in scored.values() for row in rows)


def test_guided_outputs_are_the_argmax_of_mixed_logits(judge):
    assert judge(guidance=3.0, told=3.0)[0] == dict.fromkeys(TASKS, 0.0)
    assert max(judge(guidance=3.0)[0].values()) > 0.01


def other_prompts(records):
    conditions = [one["prompt_ids"] for one in records]
    return [{**one, "prompt_ids": ids} for one, ids in zip(records, conditions[1:] + conditions[:1], strict=True)]


def no_condition(records):
    return [{**one, "prompt_ids": []} for one in records]


@pytest.mark.parametrize("change", [other_prompts, no_condition])
def test_outputs_for_another_condition_or_none_are_found(judge, change):
    assert sum(judge(change)[0].values()) > 0.01


def shifted(model, ids, positions=None, **more):
    """Decoding steps one rotary position late."""
    step = more.get("past_key_values") is not None and ids.shape[1] == 1
    return HIDDEN(model, ids, positions + 1 if step else positions, **more)


def blind_to_the_newest(model, ids, positions=None, **more):
    """Decoding steps that do not see the id just drawn."""
    if more.get("past_key_values") is not None and ids.shape[1] == 1:
        mask = more["attention_mask"].clone()
        seen = torch.arange(mask.shape[-1]) < positions  # one column less than the step asks for
        more["attention_mask"] = mask.masked_fill(~seen[:, None, None, :], -torch.inf)
    return HIDDEN(model, ids, positions, **more)


HIDDEN = MultimodalLM.hidden


@pytest.mark.parametrize("fault", [shifted, blind_to_the_newest])
def test_a_decoding_step_at_the_wrong_place_is_found(judge, monkeypatch, fault):
    monkeypatch.setattr(MultimodalLM, "hidden", fault)
    assert sum(judge()[0].values()) > 0.01


def test_tolerance_grows_with_the_dtype_and_the_logits():
    assert outputs.tolerance(np.array([10.0]), torch.float32) == pytest.approx([1e-3])
    assert outputs.tolerance(np.array([10.0]), torch.bfloat16) == pytest.approx([2 * 2**-7 * 10.0])


def record(name, group, caption, attributes=None, mentioned=()):
    return {
        "id": name,
        "group": group,
        "caption": caption,
        "media_sha256": name,
        "attributes": attributes,
        "mentioned": list(mentioned),
        "prompt_ids": [1] * len(caption),
    }


def test_partners_are_of_another_group_and_false():
    red, blue, plain = {"colour": "red"}, {"colour": "blue"}, None
    records = [
        record("a", "g1", "red one", red, ["colour"]),
        record("b", "g1", "red two", red, ["colour"]),
        record("c", "g2", "blue", blue, ["colour"]),
        record("d", "g3", "red three", red, ["colour"]),
    ]
    found = outputs.partners(records)
    assert [found[i] for i in (0, 1, 3)] == [2, 2, 2] and found[2] in (0, 1, 3)
    unknown = [record(name, name, "x" * n, plain) for n, name in enumerate("efgh", 1)]
    assert sorted(outputs.partners(unknown)) == [0, 1, 2, 3]
    assert outputs.partners([replace_group(one) for one in unknown]) == [-1] * 4


def replace_group(one):
    return {**one, "group": "same"}


def row(own, swapped, group, **more):
    return {"task": "t2i", "group": group, "loss_own": own, "loss_swapped": swapped, **more}


def test_gaps_and_win_rates_leave_out_items_without_a_partner():
    rows = [row(1.0, 2.0, f"g{i}") for i in range(9)] + [row(2.0, 1.0, "g9"), row(1.0, None, "g10")]
    gap, wins = outputs.own_prompt_metrics(rows, 300, 0)
    assert (gap.name, gap.n, wins.name, wins.n) == ("output_gap_nats", 10, "output_win_rate", 10)
    assert gap.value == pytest.approx(0.8) and wins.value == pytest.approx(0.9) and gap.ci_low < 0.8 < gap.ci_high
    nothing = outputs.own_prompt_metrics([row(1.0, None, "a")], 300, 0)
    assert all(one.value is None and one.n == 0 for one in nothing)
