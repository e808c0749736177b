"""Caption metrics by their published formulas: corpus BLEU, ROUGE-L and CIDEr-D, with any number of references.

Words are lower-case runs of letters and digits (COCO's tokenizer needs Java), so that numbers compare between runs of
this program, not to the last digit with papers.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

Words = list[str]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_ORDER = 4
_BETA = 1.2  # of ROUGE-L in COCO: recall counts more
_SIGMA = 6.0  # of CIDEr-D: words of difference in length that cost


def words(text: str) -> Words:
    """Lower-case words without punctuation."""
    return _WORD.findall(text.lower())


def bleu(outputs: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Corpus BLEU-4, 0..1 (Papineni et al. 2002): clipped n-gram counts over the corpus, brevity penalty.

    Of several references the length nearest to the output's counts. 0 where no n-gram of some length is right.
    """
    right, total, length, wanted = np.zeros(_ORDER), np.zeros(_ORDER), 0, 0
    for output, several in zip(outputs, references, strict=True):
        length += len(output)
        wanted += min((abs(len(one) - len(output)), len(one)) for one in several)[1]
        for n in range(1, _ORDER + 1):
            said = _grams(output, n)
            allowed: Counter[Any] = Counter()
            for one in several:
                allowed |= _grams(one, n)
            right[n - 1] += sum((said & allowed).values())
            total[n - 1] += sum(said.values())
    if not right.all():
        return 0.0
    return float(np.exp(np.log(right / total).mean()) * min(1.0, math.exp(1 - wanted / length)))


def rouge_l(outputs: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """ROUGE-L of each output, 0..1 (Lin 2004): F of the longest common subsequence, best precision and recall."""
    scores = []
    for output, several in zip(outputs, references, strict=True):
        common = [_longest_common(output, one) for one in several]
        precision = max(c / max(len(output), 1) for c in common)
        recall = max(c / max(len(one), 1) for c, one in zip(common, several, strict=True))
        scores.append(
            (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision) if precision and recall else 0.0
        )
    return np.array(scores)


def cider(outputs: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """CIDEr-D of each output, 0..10 (Vedantam et al. 2015): tf-idf cosine of n-grams, 1 to 4, clipped.

    Rarity is that of the references given, each item one document: with few items every n-gram is rare.
    """
    documents: Counter[tuple[str, ...]] = Counter()
    for several in references:
        documents.update({gram for one in several for n in range(1, _ORDER + 1) for gram in _grams(one, n)})
    log_items = math.log(max(len(references), 1))

    def weighted(sentence: Words) -> list[dict[tuple[str, ...], float]]:
        return [
            {gram: n * (log_items - math.log(max(1, documents[gram]))) for gram, n in _grams(sentence, order).items()}
            for order in range(1, _ORDER + 1)
        ]

    scores = []
    for output, several in zip(outputs, references, strict=True):
        said = weighted(output)
        each = []
        for one in several:
            gap = len(output) - len(one)
            alike = [_cosine(a, b) for a, b in zip(said, weighted(one), strict=True)]
            each.append(np.mean(alike) * math.exp(-(gap**2) / (2 * _SIGMA**2)))
        scores.append(10 * float(np.mean(each)))
    return np.array(scores)


def _cosine(said: dict[tuple[str, ...], float], wanted: dict[tuple[str, ...], float]) -> float:
    """Of the clipped output with the reference: repeating a word gains nothing."""
    shared = sum(min(value, wanted[gram]) * wanted[gram] for gram, value in said.items() if gram in wanted)
    norms = math.sqrt(sum(v * v for v in said.values())) * math.sqrt(sum(v * v for v in wanted.values()))
    return shared / norms if norms else 0.0


def _grams(sentence: Words, n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(sentence[i : i + n]) for i in range(len(sentence) - n + 1))


def _longest_common(first: Words, second: Words) -> int:
    row = [0] * (len(second) + 1)
    for a in first:
        above = 0
        for j, b in enumerate(second, 1):
            above, row[j] = row[j], above + 1 if a == b else max(row[j], row[j - 1])
    return row[-1]
