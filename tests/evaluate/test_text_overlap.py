"""Held-out text that is trained on in another spelling, or in other lines, is found."""

from __future__ import annotations

import pytest

from mmpt.evaluate.text import copied_lines, shared_lines

TRAINED = [
    "The ferry to the island leaves at seven in the morning and comes back after the market has closed.",
    "Nobody had told the new keeper that the lamp on the eastern pier was never lit before midnight.",
    "A short line.",
]
OTHER = "The ferry was late, so nobody in the town could say whether the market would open at all this morning."


@pytest.mark.parametrize(
    ("line", "shared"),
    [(TRAINED[0], 1), (f"{TRAINED[0]} .", 1), (TRAINED[1].upper(), 1), ("a  short, line", 1), (OTHER, 0), ("...", 0)],
)
def test_spelling_hides_no_line(line, shared):
    assert shared_lines([line], TRAINED)[0] == shared


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        (f"{TRAINED[0]} {TRAINED[1]}", 1),  # two lines joined
        (f"{TRAINED[0]} .", 1),
        (TRAINED[1].removesuffix(" before midnight."), 1),  # cut
        (f"It is said: {TRAINED[0]}", 1),
        ("A short line.", 1),
        ("A short line of another text", 0),
        (OTHER, 0),
        (f"{OTHER} {TRAINED[0]}", 0),  # under 70 % of it
    ],
)
def test_runs_of_trained_words_make_a_copy(line, copied):
    assert copied_lines([line], TRAINED) == copied
