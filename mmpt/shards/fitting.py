"""What a choice of clip length, codebooks and max_seq_len costs: records dropped, tokens and rows per step.

Counting only; what a batch needs of memory and time is mmpt.train.footprint's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mmpt.shards.examples import needed, select
from mmpt.shards.lengths import AudioShape, Corpus, ImageShape
from mmpt.shards.mixture import KINDS, Mixture
from mmpt.shards.packing import pack
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF, TASKS
from mmpt.tokens.formats import OVERHEAD

REPLAY_TOKENS = 128  # of a sequence of replayed text
ROUND = 64  # proposed lengths are multiples of it
KEEP = 0.999  # a proposal keeps this share of each task's records where it can; more makes it no better
# Shares of the clip length that are tried where a whole clip does not fit.
SHORTER = (0.8, 0.5, 0.3, 0.2, 0.1)
SOME_LOST = (0.99, 0.92)  # shares of the captions beside which a clip is tried, where that of all leaves no room
SAMPLED_STEPS = 16  # steps whose packing is worked out


@dataclass(frozen=True)
class Choice:
    """What may be chosen. seconds: of a clip; max_prompt: longest prompt, None: no bound."""

    seconds: float
    n_codebooks: int
    max_seq_len: int
    max_prompt: int | None


@dataclass(frozen=True)
class Given:
    """What a user has fixed of a choice; None is free."""

    max_seq_len: int | None = None
    seconds: float | None = None
    n_codebooks: int | None = None

    def __bool__(self) -> bool:
        return any(one is not None for one in (self.max_seq_len, self.seconds, self.n_codebooks))


@dataclass(frozen=True)
class Kept:
    """What a task keeps of `records` under a choice.

    shortened: kept ones whose prompt lost its end. longest, mean: tokens of a kept sequence. supervised:
    mean tokens of its target with the end. whole: the max_seq_len that keeps all, 99 % and 90 % of the
    records.
    """

    records: int
    kept: int
    shortened: int
    longest: int
    mean: float
    supervised: float
    whole: tuple[int, int, int]

    @property
    def dropped(self) -> float:
        """Share of the records that is dropped."""
        return 1 - self.kept / self.records if self.records else 0.0


def keeps(corpus: Corpus, audio: AudioShape | None, image: ImageShape | None, choice: Choice) -> dict[str, Kept]:
    """By task, for the tasks that have records."""
    shape = audio and replace(audio, n_codebooks=choice.n_codebooks)
    payloads = corpus.payloads(shape, image, choice.seconds)
    return {
        task: _kept(task, corpus.texts[kind], payloads[kind], choice)
        for task in TASKS
        if (kind := MODALITY_OF[task]) in payloads
    }


def _kept(task: str, texts: np.ndarray, payloads: np.ndarray, choice: Choice) -> Kept:
    chosen = select(task, texts, payloads, choice.max_seq_len, choice.max_prompt)
    sizes = (chosen.text_lengths + payloads[chosen.kept] + OVERHEAD).astype(np.int64)
    targets = payloads[chosen.kept] if task in EMIT_TASKS else chosen.text_lengths
    needs = needed(task, texts, payloads)

    def at(share: float) -> int:
        return int(needs[min(len(needs) - 1, int(np.ceil(share * len(needs))) - 1)]) if len(needs) else 0

    return Kept(
        len(texts),
        len(chosen.kept),
        chosen.shortened,
        int(sizes.max(initial=0)),
        float(sizes.mean()) if len(sizes) else 0.0,
        float(targets.mean() + 1) if len(targets) else 0.0,
        (at(1.0), at(0.99), at(0.9)),
    )


@dataclass(frozen=True)
class Step:
    """A mean optimizer step with the mixture's full weights.

    examples: of each kind. tokens, supervised: in all. rows: packed rows, in the mean and at most; padding:
    share of them that is empty.
    passes: over each kind's records in the whole run.
    """

    examples: Mapping[str, float]
    tokens: float
    supervised: float
    rows: float
    rows_most: int
    padding: float
    passes: Mapping[str, float]


def mean_step(
    kept: Mapping[str, Kept],
    weights: Mapping[str, float],
    text_replay: float,
    *,
    tokens_per_step: int,
    row_len: int,
    steps: int,
    seed: int,
) -> Step:
    """What a step holds. Its sequences are, in turn, as long as the longest and as much below the mean."""
    usable = {task: weight for task, weight in weights.items() if weight > 0 and task in kept and kept[task].kept}
    total = sum(usable.values())
    shares = {task: (1 - text_replay) * weight / total for task, weight in usable.items()}
    means = {task: kept[task].mean for task in usable}
    if text_replay:
        shares["text"], means["text"] = text_replay, float(min(REPLAY_TOKENS, row_len))
    mixture = Mixture(shares, means, tokens_per_step, seed=seed)
    counts = mixture.count_table(np.arange(SAMPLED_STEPS))
    rows = [len(pack(_lengths(table, means, kept), row_len)) for table in counts]
    each = dict(zip(KINDS, counts.mean(axis=0).tolist(), strict=True))
    examples = {kind: each[kind] for kind in shares}
    tokens = sum(examples[kind] * means[kind] for kind in shares)
    supervised = {**{task: kept[task].supervised for task in usable}, "text": means.get("text", 1.0) - 1}
    return Step(
        examples,
        tokens,
        sum(examples[kind] * supervised[kind] for kind in shares),
        float(np.mean(rows)),
        max(rows),
        1 - tokens / max(1e-9, float(np.mean(rows)) * row_len),
        {kind: steps * examples[kind] / kept[kind].kept for kind in usable},
    )


def _lengths(counts: np.ndarray, means: Mapping[str, float], kept: Mapping[str, Kept]) -> list[int]:
    """Lengths of one step's sequences: around each kind's mean, as far up as its longest."""
    out: list[int] = []
    for kind, n in zip(KINDS, counts.tolist(), strict=True):
        if n and kind in means:
            spread = (kept[kind].longest - means[kind]) if kind in kept else 0.0
            out += [round(means[kind] + spread * (1 if i % 2 else -1) * (i > 0)) for i in range(n)]
    return [max(1, length) for length in out]


@dataclass(frozen=True)
class Proposal:
    """A choice that fits, with what it drops by task.

    cut, lost: share of the sounds that are longer than the clip, and of all their seconds behind it.
    """

    choice: Choice
    row_len: int
    dropped: Mapping[str, float]
    cut: float = 0.0
    lost: float = 0.0

    @property
    def worst(self) -> float:
        """Largest share that any task drops."""
        return max(self.dropped.values(), default=0.0)

    @property
    def best(self) -> float:
        """Smallest share that any task drops: 1 where nothing is kept."""
        return min(self.dropped.values(), default=1.0)


def propose(
    corpus: Corpus,
    audio: AudioShape | None,
    image: ImageShape | None,
    now: Choice,
    share: Callable[[int], float],
    given: Given = Given(),
    positions: int | None = None,
) -> list[Proposal]:
    """Choices that fit and keep what is given, those that drop least first; of equal ones, those that keep most of the
    sound.

    Args:
        share: row length -> the share of a device's memory that training on one row of it needs; see `longest_row`.
        positions: tokens of one sequence that the base was made for; None: any number.
    """
    longest = given.max_seq_len or min(longest_row(share), positions or 1 << 17)
    if not longest or share(longest) > 1 or (positions and longest > positions):
        return []
    fewer = sorted({now.n_codebooks, *(k for k in (8, 4, 2) if k < now.n_codebooks)}, reverse=True)
    codebooks = [given.n_codebooks] if given.n_codebooks else fewer
    found = []
    for count in codebooks if audio else [now.n_codebooks]:
        for seconds in _clips(corpus, audio, now, given, count, longest):
            tried = replace(now, seconds=seconds, n_codebooks=count, max_seq_len=longest)
            one = _shortened(corpus, audio, image, tried, keep=given.max_seq_len is not None)
            cut, lost = _cut(corpus, seconds) if audio else (one.cut, one.lost)
            found.append(replace(one, cut=cut, lost=lost))
    sound = {id(one): one.choice.seconds * one.choice.n_codebooks for one in found}
    best = sorted(found, key=lambda one: (max(0.0, one.worst - (1 - KEEP)), -sound[id(one)], -one.choice.seconds))
    return _distinct(best)


def _clips(
    corpus: Corpus, audio: AudioShape | None, now: Choice, given: Given, n_codebooks: int, max_seq_len: int
) -> list[float]:
    """Clip lengths to try: the one that is given; else the profile's, shares of it, and the longest that fits beside
    a caption.
    """
    if given.seconds or not audio:
        return [given.seconds or now.seconds]
    clips = [now.seconds, *(round(now.seconds * share, 2) for share in SHORTER)]
    if given.max_seq_len:
        texts = corpus.texts.get("audio", np.zeros(1, np.int64))
        captions = np.quantile(texts, (KEEP, *SOME_LOST), method="inverted_cdf").astype(int)
        width = replace(audio, n_codebooks=n_codebooks).width
        rooms = [(max_seq_len - OVERHEAD - int(caption)) // width for caption in captions]
        clips += [clip for frames in rooms if (clip := clip_of(audio, frames, now.seconds))]
    return sorted(set(clips), reverse=True)


def clip_of(audio: AudioShape, frames: int, most: float) -> float:
    """Seconds, in tenths up to `most`, of the longest clip of at most `frames` frames; 0: not even 0.1 s fits."""
    low, high = 0, round(10 * most)
    while low < high:
        middle = (low + high + 1) // 2
        fits = audio.frames(round(middle / 10 * audio.rate)) <= frames
        low, high = (middle, high) if fits else (low, middle - 1)
    return low / 10


def _cut(corpus: Corpus, seconds: float) -> tuple[float, float]:
    """Shares of sounds and of their seconds behind a clip's end."""
    total = float(corpus.seconds.sum())
    behind = np.maximum(corpus.seconds - seconds, 0.0)
    return float((behind > 0).mean()) if len(behind) else 0.0, float(behind.sum()) / total if total else 0.0


def _shortened(
    corpus: Corpus, audio: AudioShape | None, image: ImageShape | None, tried: Choice, keep: bool
) -> Proposal:
    """The shortest max_seq_len up to the tried one that keeps KEEP of what the tried one keeps; keep: the tried one."""
    kept = keeps(corpus, audio, image, tried)
    if keep:
        return Proposal(tried, tried.max_seq_len, {task: one.dropped for task, one in kept.items()})
    need = 1
    for task, one in kept.items():
        goal = min(one.kept / one.records if one.records else 0.0, KEEP)
        need = max(need, _length_for(corpus, audio, image, tried, task, goal))
    length = min(-(-need // ROUND) * ROUND, tried.max_seq_len)
    chosen = replace(tried, max_seq_len=length)
    again = keeps(corpus, audio, image, chosen)
    return Proposal(chosen, length, {task: one.dropped for task, one in again.items()})


def _length_for(
    corpus: Corpus, audio: AudioShape | None, image: ImageShape | None, choice: Choice, task: str, goal: float
) -> int:
    """Tokens that sequences of a task need, whole prompts included, for a share `goal` of its records."""
    shape = audio and replace(audio, n_codebooks=choice.n_codebooks)
    kind = MODALITY_OF[task]
    texts, payloads = corpus.texts[kind], corpus.payloads(shape, image, choice.seconds)[kind]
    if choice.max_prompt is not None and task in EMIT_TASKS:
        texts = np.minimum(texts, choice.max_prompt)
    sizes = np.sort(texts + payloads + OVERHEAD)
    return int(sizes[max(0, int(np.ceil(goal * len(sizes))) - 1)]) if len(sizes) else 1


def longest_row(share: Callable[[int], float], most: int = 1 << 17) -> int:
    """The longest multiple of ROUND that fits, 0 if none does.

    To know a share takes long and shares grow about evenly, so the next length tried is where the line through two
    known shares reaches 1, and the middle after a step that did not halve what is left.

    Args:
        share: row length -> the share of memory that one row needs; 1 fits. Monotone.
    """
    low, high = 1, most // ROUND
    least, largest = share(low * ROUND), share(high * ROUND)
    if least > 1 or largest <= 1:
        return 0 if least > 1 else high * ROUND
    halved = True
    while high - low > 1:
        width = high - low
        step = int(width * (1 - least) / (largest - least)) if halved else width // 2
        tried = low + min(max(step, 1), width - 1)
        found = share(tried * ROUND)
        if found <= 1:
            low, least = tried, found
        else:
            high, largest = tried, found
        halved = 2 * (high - low) <= width
    return low * ROUND


def _distinct(proposals: Sequence[Proposal], most: int = 4) -> list[Proposal]:
    """The first few; one that keeps less of the sound than an earlier one and drops no less is left out."""
    out: list[Proposal] = []
    for one in proposals:
        size = (one.choice.seconds, one.choice.n_codebooks)
        beaten = any(
            size[0] <= other.choice.seconds and size[1] <= other.choice.n_codebooks and other.worst <= one.worst
            for other in out
        )
        if not beaten:
            out.append(one)
    return out[:most]
