"""Caption metrics on cases whose values follow by hand, and against COCO's own code where it is installed."""

import math
import random

import numpy as np
import pytest

from mmpt.evaluate.captions import bleu, cider, rouge_l, words


def test_words_are_lower_case_without_punctuation():
    assert words("A dog's bark, twice -- LOUD (3x)!") == ["a", "dog's", "bark", "twice", "loud", "3x"]


def test_equal_captions_have_the_best_score():
    said = [words("a red circle on the left"), words("two loud beeps going up")]
    assert bleu(said, [[one] for one in said]) == pytest.approx(1)
    assert rouge_l(said, [[one] for one in said]) == pytest.approx([1, 1])
    assert cider(said, [[one] for one in said]) == pytest.approx([10, 10])


def test_captions_without_a_common_word_have_none():
    said, wanted = [words("a b c d"), words("e f g h")], [[words("i j k l")], [words("m n o p")]]
    assert bleu(said, wanted) == 0 and not rouge_l(said, wanted).any() and not cider(said, wanted).any()
    assert bleu([[]], [[words("a b")]]) == 0 and rouge_l([[]], [[words("a b")]])[0] == 0


def test_bleu_by_hand():
    # 5 words of 6: precisions 5/5, 4/4, 3/3, 2/2; too short by one: exp(1 - 6/5)
    said, wanted = [words("the cat sat on the")], [[words("the cat sat on the mat")]]
    assert bleu(said, wanted) == pytest.approx(math.exp(1 - 6 / 5))
    # what is said twice counts as often as the one reference that says it most: 4/8, 3/7, 2/6, 1/5
    twice = bleu([words("a b c d a b c d")], [[words("a b c d x"), words("a b c d y")]])
    assert twice == pytest.approx((4 / 8 * 3 / 7 * 2 / 6 * 1 / 5) ** 0.25)
    # a word said more often than any reference says it counts once
    assert bleu([words("the the the the")], [[words("the cat is here")]]) == 0


def test_rouge_by_hand():
    # longest common subsequence: a c d of "a b c d" and "a c d": precision 3/4, recall 1
    expected = (1 + 1.44) * 0.75 / (1 + 1.44 * 0.75)
    assert rouge_l([words("a b c d")], [[words("a c d")]])[0] == pytest.approx(expected)


def test_more_references_never_hurt_bleu_and_rouge():
    said = [words("a small red circle")]
    one, two = [[words("a big red square")]], [[words("a big red square"), words("the small red circle")]]
    assert bleu(said, two) >= bleu(said, one) and rouge_l(said, two)[0] > rouge_l(said, one)[0]


def test_cider_weighs_rare_words_more_and_repeats_nothing():
    wanted = [[words(f"a sound of a {name}")] for name in ("bell", "drum", "horn", "flute")]
    rare, common = words("bell"), words("a sound")
    assert cider([rare, *[words("x")] * 3], wanted)[0] > cider([common, *[words("x")] * 3], wanted)[0]
    once, often = (
        cider([words("a bell"), *[[]] * 3], wanted)[0],
        cider([words("bell bell bell"), *[[]] * 3], wanted)[0],
    )
    assert often <= once * 1.5


def test_they_are_cocos_own_numbers():
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    rng = random.Random(0)
    vocabulary = [
        "a",
        "red",
        "blue",
        "small",
        "large",
        "circle",
        "square",
        "on",
        "the",
        "left",
        "right",
        "dog",
        "barks",
        "loudly",
        "near",
        "road",
    ]
    said = [[rng.choice(vocabulary) for _ in range(rng.randint(3, 12))] for _ in range(30)]
    wanted = [
        [[w if rng.random() < 0.7 else rng.choice(vocabulary) for w in one] for _ in range(rng.randint(1, 5))]
        for one in said
    ]
    truth = {i: [" ".join(one) for one in several] for i, several in enumerate(wanted)}
    found = {i: [" ".join(one)] for i, one in enumerate(said)}
    assert bleu(said, wanted) == pytest.approx(Bleu(4).compute_score(truth, found, verbose=0)[0][3], rel=1e-6)
    assert np.allclose(rouge_l(said, wanted), Rouge().compute_score(truth, found)[1])
    assert np.allclose(cider(said, wanted), Cider().compute_score(truth, found)[1])
