"""The generated corpus: pictures and sounds made of independent attributes, with captions, from a seed.

Every record is one combination of attribute values, rendered with traces that only make its file
differ, and described by one of several wordings that mention all or some of the attributes. Train, val and
test hold different combinations (`split_hint`), so a model that is right on test has composed what it knows.
`oracle.py` reads the attributes back from a file.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from .pictures import PICTURE_ATTRIBUTES, caption_picture, draw_picture
from .sounds import SOUND_ATTRIBUTES, caption_sound, play_sound

ATTRIBUTES: dict[str, dict[str, tuple[str, ...]]] = {"image": PICTURE_ATTRIBUTES, "audio": SOUND_ATTRIBUTES}
"""Modality -> attribute -> its values, in the order that chance and the oracle use."""

LICENSE = "CC0-1.0"
MENTION = 0.9
"""Probability that a caption mentions an attribute."""
MIN_MENTIONED = 3
HELD_OUT = 0.65
"""Held-out combinations for each held-out record: a side with 0.2 of the records has 0.13 of the combinations.

Were as many held out as records are, every second pair of combinations that differ in an attribute of two values would
have one side in train: which one it is could be learned by heart, instead of the word that says it.
"""


@dataclass(frozen=True)
class Generated:
    """One record of the corpus and its medium.

    `medium` is uint8 [48, 48, 3] for a picture and float32 [16000] in (-1, 1) for a sound; the caller writes
    it to `record["media"]["path"]` (.png, or 16-bit .wav at 16 kHz).
    """

    record: dict[str, Any]
    medium: np.ndarray


def generate_pictures(seed: int, n: int, *, val: float = 0.07, test: float = 0.2) -> list[Generated]:
    """Return `n` pictures; `val` and `test` are shares of the records, HELD_OUT of them of the combinations."""
    return _generate("image", seed, n, val, test)


def generate_sounds(seed: int, n: int, *, val: float = 0.07, test: float = 0.2) -> list[Generated]:
    """Return `n` sounds of one second. `val`, `test`: shares of the records; HELD_OUT of them: of the combinations."""
    return _generate("audio", seed, n, val, test)


def split_combinations(modality: str, seed: int, *, val: float, test: float) -> dict[str, list[tuple[str, ...]]]:
    """Deal all attribute combinations into train, val and test; `val` and `test` are shares of the combinations.

    With any one attribute left out, train has every combination of the others. So a held-out combination is
    new as a whole, while each part of it (a loud low steady buzz, of another count) has been seen: by the
    model, and by the codecs, which are fitted on train and could not spell it otherwise.

    Every pair of values is held out about as often as any other. Were yellow held out twice as often as blue, what
    training teaches first is that yellow is rare, and test would measure that.
    """
    attributes = ATTRIBUTES[modality]
    everything = list(product(*attributes.values()))
    order = np.random.default_rng([seed, len(modality), 1]).permutation(len(everything))
    train = [everything[index] for index in order]
    left = Counter(part for combination in everything for part in _parts(combination))
    held: Counter[tuple[tuple[int, str], ...]] = Counter()
    share = Counter(pair for combination in everything for pair in _pairs(combination))
    dealt: dict[str, list[tuple[str, ...]]] = {"train": train, "val": [], "test": []}
    for name, wanted in (("test", test), ("val", val)):
        for _ in range(round(wanted * len(everything))):
            free = [one for one in train if min(left[part] for part in _parts(one)) > 1]
            if not free:
                break
            rarest = min(free, key=lambda one: sum(held[pair] / share[pair] for pair in _pairs(one)))
            train.remove(rarest)
            left.subtract(_parts(rarest))
            held.update(_pairs(rarest))
            dealt[name].append(rarest)
    return dealt


def _parts(combination: Sequence[str]) -> list[tuple[int, tuple[str, ...]]]:
    """The combination without its first attribute, without its second, ...; each with the place left out."""
    return [(i, (*combination[:i], *combination[i + 1 :])) for i in range(len(combination))]


def _pairs(combination: Sequence[str]) -> list[tuple[tuple[int, str], ...]]:
    """Every two of its values, each with the place of its attribute."""
    return list(combinations(enumerate(combination), 2))


def _generate(modality: str, seed: int, n: int, val: float, test: float) -> list[Generated]:
    dealt = split_combinations(modality, seed, val=HELD_OUT * val, test=HELD_OUT * test)
    n_val, n_test = round(val * n), round(test * n)
    splits = ["test"] * n_test + ["val"] * n_val + ["train"] * (n - n_val - n_test)
    deck = {
        name: _cycle(combos, np.random.default_rng([seed, len(modality), 2, len(name)]))
        for name, combos in dealt.items()
    }
    return [_make(modality, seed, index, split, next(deck[split])) for index, split in enumerate(splits)]


def _cycle(combos: Sequence[tuple[str, ...]], rng: np.random.Generator) -> Iterator[tuple[str, ...]]:
    """Yield every combination once in each round, in a new order each round."""
    while True:
        for index in rng.permutation(len(combos)):
            yield combos[index]


def _make(modality: str, seed: int, index: int, split: str, combination: tuple[str, ...]) -> Generated:
    """Render and describe one record; its randomness depends on (seed, modality, index) alone."""
    rng = np.random.default_rng([seed, len(modality), 3, index])
    attributes = dict(zip(ATTRIBUTES[modality], combination, strict=True))
    mentioned = _mentioned(list(attributes), rng)
    draw, caption, folder, suffix = (
        (draw_picture, caption_picture, "pictures", "png")
        if modality == "image"
        else (play_sound, caption_sound, "sounds", "wav")
    )
    name = f"{folder[:-1]}-{index:05d}"
    record = {
        "id": f"generated/{name}",
        "modality": modality,
        "media": {"root": "corpus", "path": f"media/{folder}/{name}.{suffix}"},
        "caption": caption(attributes, mentioned, rng),
        "source": "generated",
        "group": f"{modality}:" + "/".join(combination),
        "origin": f"generated/{name}",
        "license": LICENSE,
        "attributes": attributes,
        "mentioned": mentioned,
        "split_hint": split,
    }
    return Generated(record, draw(attributes, rng))


def _mentioned(names: list[str], rng: np.random.Generator) -> list[str]:
    """Choose the attributes that the caption names, in their own order; at least MIN_MENTIONED."""
    keep = rng.random(len(names)) < MENTION
    while keep.sum() < MIN_MENTIONED:
        keep[rng.integers(len(names))] = True
    return [name for name, kept in zip(names, keep, strict=True) if kept]
