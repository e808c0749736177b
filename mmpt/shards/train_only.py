"""S2's rule for what is made after the split: codecs are fitted on train only, and the base text quotes train only."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.evidence import Metric
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.numbers import Labels, Numbers
from mmpt.store.stage import StageContext


def train_only(
    ctx: StageContext, modalities: Iterable[str], records: Iterable[Mapping[str, Any]], splits: Labels
) -> list[Metric]:
    """Of each modality's codec and of the base text, what they saw outside train; reads inputs codecs, token_space."""
    fitted = [codec_fit_outside(ctx.inputs["codecs"], modality, splits) for modality in modalities]
    return [*fitted, base_text_outside(ctx.inputs["token_space"], records, splits)]


def codec_fit_outside(codecs: Path, modality: str, splits: Labels) -> Metric:
    """Items that a codec was fitted on and that are not in train; n: all items it was fitted on."""
    rows = iter_jsonl(codecs / modality / "fitted_on.jsonl")
    fitted = Counter(splits.get(row["id"]) == "train" for row in rows)
    n = fitted.total()
    return Metric("codec_fit_items_outside_train", fitted[False], n, "items", "lower", slice=modality)


def base_text_outside(token_space: Path, records: Iterable[Mapping[str, Any]], splits: Labels) -> Metric:
    """Lines of text_train.txt that are a caption of val or test, but of no train record; n: all lines.

    Looked for in the text itself: what the stage says that it put there proves nothing.
    """
    lines, times = Numbers(), array("q")  # of each different line: how often it stands there
    with open(token_space / "text_train.txt", encoding="utf-8") as stream:
        for line in (line for part in stream for line in part.splitlines()):
            number = lines.add(_plain(line))
            times.extend([0] * (len(lines) - len(times)))
            times[number] += 1
    captions = {True: bytearray(len(lines)), False: bytearray(len(lines))}  # by "of train": is the line one of them?
    for record in records:
        if (number := lines.find(_plain(record["caption"]))) >= 0:
            captions[splits.get(record["id"]) == "train"][number] = True
    seen = zip(times, captions[True], captions[False], strict=True)
    outside = sum(n for n, train, held in seen if held and not train)
    return Metric("base_text_captions_outside_train", outside, sum(times), "lines", "lower")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
