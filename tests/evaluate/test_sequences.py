"""Gate A3's checker: silent on what the builder makes, and each kind of damage is found."""

import numpy as np
import pytest

from mmpt.evaluate.sequences import faults
from mmpt.tokens import TASKS, build, build_token_space

SPACE = build_token_space(
    base_text_model="tiny",
    text_vocab_size=30,
    n_special=12,
    image_tokenizer={"codebook_size": 20},
    audio_codec={"n_codebooks": 2, "codebook_size": 15},
)
TEXT = np.array([3, 1, 4, 1, 5])
PAYLOAD = {
    "audio": SPACE.audio_to_global(np.array([[1, 2, 3], [4, 5, 6]])),
    "image": SPACE.image_to_global([7, 8, 9, 7]),
}


def example(task):
    payload = PAYLOAD["audio" if "a" in task else "image"]
    made = build(SPACE, task, TEXT, payload)
    return made.input_ids.copy(), made.labels.copy(), TEXT if task.endswith("t") else payload


def found(task, ids, labels, target):
    return {name for name, count in faults(SPACE, task, ids, labels, target).items() if count}


@pytest.mark.parametrize("task", TASKS)
def test_what_the_builder_makes_is_clean(task):
    assert found(task, *example(task)) == set()


@pytest.mark.parametrize("task", TASKS)
def test_damage_is_found(task):
    ids, labels, target = example(task)
    swapped = ids.copy()
    swapped[[0, -1]] = swapped[[-1, 0]]
    assert found(task, swapped, labels, target) == {"special_order_errors"}
    leaking = labels.copy()
    leaking[1] = ids[1]
    assert found(task, ids, leaking, target) == {"labels_outside_target"}
    silent = np.full_like(labels, -100)
    assert "examples_without_label" in found(task, ids, silent, target)
    assert found(task, ids, labels, [*target, target[0]]) == {"shortened_targets"}
    foreign = labels.copy()
    foreign[-2] = SPACE.special("pad_mm")
    assert found(task, ids, foreign, target) == {"labels_outside_segment"}


def test_a_codebook_out_of_turn_is_found():
    ids, labels, _target = example("t2a")
    place = len(ids) - 3
    for array in (ids, labels):
        array[[place, place + 1]] = array[[place + 1, place]]
    assert "labels_outside_segment" in found("t2a", ids, labels, ids[place - 4 : place + 2])
