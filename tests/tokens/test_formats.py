"""The four sequence formats and their label masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpt.store.errors import UserError
from mmpt.store.tasks import TASKS
from mmpt.tokens.formats import OVERHEAD, SLOTS, build, build_text, prompt
from mmpt.tokens.space import build_token_space

SPACE = build_token_space(
    base_text_model="tiny",
    text_vocab_size=300,
    n_special=64,
    image_tokenizer={"codebook_size": 16},
    audio_codec={"n_codebooks": 3, "codebook_size": 8},
)
PICTURE = SPACE.image_to_global([3, 1, 2])
SOUND = SPACE.audio_to_global([[1, 2], [3, 4], [5, 6]])
PAYLOAD = {"a2t": SOUND, "t2a": SOUND, "i2t": PICTURE, "t2i": PICTURE}
# Spec 4.3, written out; None stands for the caption, ... for the payload.
SPEC = {
    "a2t": ["aud_start", ..., "aud_end", "gen_text", "text_start", None, "text_end"],
    "i2t": ["img_start", ..., "img_end", "gen_text", "text_start", None, "text_end"],
    "t2a": ["text_start", None, "text_end", "gen_aud", "aud_start", ..., "aud_end"],
    "t2i": ["text_start", None, "text_end", "gen_img", "img_start", ..., "img_end"],
}


def spelled(task, text, payload):
    """The sequence by the spec, token by token, and whether each token is supervised."""
    target = ... if task.startswith("t2") else None
    ids, supervised = [], []
    for i, part in enumerate(SPEC[task]):
        tokens = list(text) if part is None else list(payload) if part is ... else [SPACE.special(part)]
        ids += tokens
        supervised += [part is target or i == len(SPEC[task]) - 1] * len(tokens)
    return ids, supervised


@pytest.mark.parametrize("task", TASKS)
def test_sequences_and_masks_are_the_specs(task):
    example = build(SPACE, task, [5, 6], PAYLOAD[task])
    ids, supervised = spelled(task, [5, 6], PAYLOAD[task])
    assert example.input_ids.tolist() == ids
    assert example.labels.tolist() == [i if s else -100 for i, s in zip(ids, supervised, strict=True)]
    assert len(example) == 2 + len(PAYLOAD[task]) + OVERHEAD
    assert (example.input_ids.dtype, example.labels.dtype, example.slots.dtype) == (
        np.int32,
        np.int32,
        np.int8,
    )


def test_slots_name_what_each_label_is():
    names = SLOTS(SPACE)
    assert names == (
        "text",
        "text_end",
        "image",
        "image_end",
        "audio_cb0",
        "audio_cb1",
        "audio_cb2",
        "audio_end",
    )

    def said(task):
        example = build(SPACE, task, [5, 6], PAYLOAD[task])
        return [names[s] for s in example.slots if s >= 0]

    assert said("a2t") == ["text", "text", "text_end"]
    assert said("t2i") == ["image"] * 3 + ["image_end"]
    assert said("t2a") == ["audio_cb0", "audio_cb1", "audio_cb2"] * 2 + ["audio_end"]


@pytest.mark.parametrize("task", ["t2a", "t2i"])
def test_the_empty_prompt_has_no_text_between_its_marks(task):
    assert prompt(SPACE, task, []).tolist()[:2] == [SPACE.special("text_start"), SPACE.special("text_end")]
    assert len(build(SPACE, task, [], PAYLOAD[task])) == len(PAYLOAD[task]) + OVERHEAD


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(TASKS),
    st.lists(st.integers(0, 299), min_size=1, max_size=20),
    st.integers(1, 12),
    st.integers(0, 2**32 - 1),
)
def test_what_holds_for_every_example(task, text, n, seed):
    rng = np.random.default_rng(seed)
    payload = (
        SPACE.audio_to_global(rng.integers(0, 8, (3, n)))
        if "a" in task
        else SPACE.image_to_global(rng.integers(0, 16, n))
    )
    example = build(SPACE, task, text, payload)
    supervised = example.labels != -100
    assert np.array_equal(example.labels[supervised], example.input_ids[supervised])
    assert np.array_equal(supervised, example.slots >= 0)
    target = payload if task.startswith("t2") else np.array(text)
    assert supervised.sum() == len(target) + 1  # all of the target and its end, nothing else
    assert supervised[-len(target) - 1 :].all()
    given_ids = text if task.startswith("t2") else payload
    assert np.array_equal(prompt(SPACE, task, given_ids), example.input_ids[~supervised])


def test_ids_in_the_wrong_place_are_refused():
    with pytest.raises(UserError, match="image id out of range"):
        build(SPACE, "t2i", [5], SOUND)
    with pytest.raises(UserError, match="at position 0"):
        build(SPACE, "t2a", [5], SOUND[[1, 0, 2]])
    with pytest.raises(UserError, match="whole frames"):
        build(SPACE, "t2a", [5], SOUND[:4])
    with pytest.raises(UserError, match="text id out of range: 300"):
        build(SPACE, "a2t", [300], SOUND)
    with pytest.raises(UserError, match="unknown task"):
        prompt(SPACE, "t2v", [1])


@pytest.mark.parametrize("task", TASKS)
def test_a_target_without_tokens_is_refused(task):
    reads = task.endswith("2t")
    with pytest.raises(UserError, match="nothing to supervise"):
        build(SPACE, task, [] if reads else [1], PAYLOAD[task] if reads else [])


def test_plain_text_supervises_all_but_its_first_token():
    example = build_text(SPACE, [4, 5, 6])
    assert example.labels.tolist() == [-100, 5, 6] and example.slots.tolist() == [-1, 0, 0]
    with pytest.raises(UserError, match="too short"):
        build_text(SPACE, [4])
