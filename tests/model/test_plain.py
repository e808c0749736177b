"""The independent scorer gives what the model gives, from the files alone."""

import numpy as np
import pytest
import torch

from mmpt.model.plain import FORMATS, PlainLM, sequence
from mmpt.model.tiny import build_tiny
from mmpt.store.errors import UserError
from mmpt.tokens import TASKS, build
from tests.model.tiny_model import small_model

RNG = np.random.default_rng(0)


def payloads(space, task, n=3):
    """(source, target) ids of n items of a task, of several lengths."""
    text = [RNG.integers(0, 50, 3 + i).tolist() for i in range(n)]
    if task.endswith("a") or task.startswith("a"):
        media = [space.audio_to_global(RNG.integers(0, 6, (2, 4 + i))).tolist() for i in range(n)]
    else:
        media = [space.image_to_global(RNG.integers(0, 12, 6)).tolist() for _ in range(n)]
    return list(zip(media, text, strict=True)) if task in ("a2t", "i2t") else list(zip(text, media, strict=True))


@pytest.mark.parametrize("options", [{}, {"tied": False}, {"padded_to": 64}, {"layer_norm": True}])
def test_it_gives_the_losses_of_the_model(tmp_path, options):
    model = small_model(tmp_path / "base", **options).eval()
    model.save_adapter(tmp_path / "adapter")
    plain = PlainLM.open(tmp_path / "base", tmp_path / "adapter", model.space)
    for task in TASKS:
        pairs = payloads(model.space, task)
        sequences = [sequence(model.space, task, *pair) for pair in pairs]
        for (source, target), one, scored in zip(pairs, sequences, plain.score(sequences), strict=True):
            text, payload = (target, source) if task in ("a2t", "i2t") else (source, target)
            example = build(model.space, task, text, payload)
            assert one.ids.tolist() == example.input_ids.tolist()
            at = np.flatnonzero(example.labels != -100)
            with torch.no_grad():
                logits = model.logits(model.hidden(torch.as_tensor(one.ids)[None]))[0]
            wanted = -logits.log_softmax(-1)[at - 1, one.ids[at]]
            assert scored.nll == pytest.approx(wanted.numpy(), abs=1e-5)


def test_the_margin_is_zero_for_the_best_allowed_id_and_positive_for_any_other(tmp_path):
    model = small_model(tmp_path / "base").eval()
    model.save_adapter(tmp_path / "adapter")
    plain, space = PlainLM.open(tmp_path / "base", tmp_path / "adapter", model.space), model.space
    prompt = [3, 4, 5]
    found = [plain.score([sequence(space, "t2i", prompt, [i] * 6)])[0] for i in space.image_to_global(np.arange(12))]
    first = np.array([one.margin[0] for one in found])
    assert (first >= 0).all() and np.count_nonzero(first == 0) == 1
    assert found[int(first.argmin())].inside[0] == min(one.inside[0] for one in found)
    # The segment holds one unit of probability.
    assert np.exp([-one.inside[0] for one in found]).sum() == pytest.approx(1.0, abs=1e-5)


def test_guidance_mixes_the_logits_of_both_prompts(tmp_path):
    model = small_model(tmp_path / "base").eval()
    model.save_adapter(tmp_path / "adapter")
    plain, space = PlainLM.open(tmp_path / "base", tmp_path / "adapter", model.space), model.space
    target = space.image_to_global(RNG.integers(0, 12, 6)).tolist()
    own, empty = sequence(space, "t2i", [3, 4, 5], target), sequence(space, "t2i", [], target)
    mixed = plain.score([own], guide=[empty], guidance=2.0)[0]
    with torch.no_grad():
        a, b = (
            model.logits(model.hidden(torch.as_tensor(one.ids)[None]))[0, one.start - 1 : -1] for one in (own, empty)
        )
    wanted = -(b + 2 * (a - b)).log_softmax(-1)[torch.arange(7), own.ids[own.start :]]
    assert mixed.nll == pytest.approx(wanted.numpy(), abs=1e-4)


def test_an_adapter_of_another_base_is_refused(tmp_path):
    model = small_model(tmp_path / "base")
    model.save_adapter(tmp_path / "adapter")
    build_tiny({**model.config.to_dict(), "num_hidden_layers": 1, "layer_types": None}, 50, 0).save_pretrained(
        tmp_path / "short"
    )
    with pytest.raises(UserError, match="another base"):
        PlainLM.open(tmp_path / "short", tmp_path / "adapter", model.space)


def test_every_task_has_a_format():
    assert set(FORMATS) == set(TASKS)
