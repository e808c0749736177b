"""Gate A3's measure: what is wrong with a training sequence, by rules not taken from its builder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmpt.tokens import TokenSpace

IGNORE = -100
# Special tokens of each format in order, and after how many of them the target starts (specification, section
# 4.3).
ORDER: dict[str, tuple[str, ...]] = {
    "a2t": ("aud_start", "aud_end", "gen_text", "text_start", "text_end"),
    "i2t": ("img_start", "img_end", "gen_text", "text_start", "text_end"),
    "t2a": ("text_start", "text_end", "gen_aud", "aud_start", "aud_end"),
    "t2i": ("text_start", "text_end", "gen_img", "img_start", "img_end"),
}
FAULTS = (
    "special_order_errors",
    "labels_outside_target",
    "examples_without_label",
    "shortened_targets",
    "labels_outside_segment",
)


def faults(
    space: TokenSpace, task: str, input_ids: np.ndarray, labels: np.ndarray, whole_target: Sequence[int]
) -> Counter[str]:
    """Counts of FAULTS in one sequence.

    `input_ids`, `labels` int [L]; `whole_target`: the ids that the record's medium or caption has, end token
    not counted. labels_outside_target and labels_outside_segment count tokens, the others are 0 or 1. A
    sequence whose specials are out of order has no target that could be checked; its other counts but the
    first stay 0.
    """
    found: Counter[str] = Counter()
    special = space.ranges["SPECIAL"]
    at = np.flatnonzero((input_ids >= special.start) & (input_ids <= special.end))
    wanted = [space.special(role) for role in ORDER[task]]
    found["examples_without_label"] += int(not (labels != IGNORE).any())
    # The first two specials enclose the source, the next two follow at once, the last one ends the sequence.
    placed = len(at) == 5 and at[0] == 0 and (at[2:4] - at[1]).tolist() == [1, 2] and at[4] == len(input_ids) - 1
    if input_ids[at].tolist() != wanted or not placed:
        found["special_order_errors"] += 1
        return found
    start, end = int(at[3]) + 1, int(at[4])
    inside = np.zeros(len(labels), bool)
    inside[start : end + 1] = True
    found["labels_outside_target"] += int((labels[~inside] != IGNORE).sum())
    found["shortened_targets"] += int(not np.array_equal(input_ids[start:end], np.asarray(whole_target)))
    found["labels_outside_segment"] += _misplaced(space, task, labels[start:end]) + int(labels[end] != input_ids[end])
    found["labels_outside_segment"] += int((labels[start:end] != input_ids[start:end]).sum())
    return found


def _misplaced(space: TokenSpace, task: str, payload: np.ndarray) -> int:
    """Labels of a payload that lie outside the segment of their position."""
    text = space.ranges["TEXT"]
    modality = {"t2a": "audio", "t2i": "image"}.get(task)
    lo, stop = space.payload_ranges(modality, len(payload)) if modality else (text.start, text.stop)
    return int(((payload < lo) | (payload >= stop)).sum())
