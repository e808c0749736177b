"""S2's rule on what is made after the split: codecs are fitted on, and the base text quotes, train only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.evidence import Metric
from mmpt.store.jsonl import read_jsonl


def codec_fit_outside(codecs: Path, modality: str, splits: Mapping[str, str]) -> Metric:
    """Items that a codec was fitted on and that are not in train; n: all items it was fitted on."""
    fitted = [row["id"] for row in read_jsonl(codecs / modality / "fitted_on.jsonl")]
    outside = sum(splits.get(one) != "train" for one in fitted)
    return Metric("codec_fit_items_outside_train", outside, len(fitted), "items", "lower", slice=modality)


def base_text_outside(
    token_space: Path, records: Iterable[Mapping[str, Any]], splits: Mapping[str, str]
) -> Metric:
    """Lines of text_train.txt that are a caption of val or test, but of no train record; n: all lines.

    Looked for in the text itself: what the stage says that it put there proves nothing.
    """
    captions: dict[bool, set[str]] = {True: set(), False: set()}
    for record in records:
        captions[splits.get(record["id"]) == "train"].add(_plain(record["caption"]))
    held_out = captions[False] - captions[True]
    lines = (token_space / "text_train.txt").read_text(encoding="utf-8").splitlines()
    outside = sum(_plain(line) in held_out for line in lines)
    return Metric("base_text_captions_outside_train", outside, len(lines), "lines", "lower")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
