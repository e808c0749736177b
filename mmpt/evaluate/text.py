"""Is the text model still the text model: loss on held-out text, and prompts continued before and after."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from mmpt.evaluate.statistics import Interval, mean_interval
from mmpt.generate import generate
from mmpt.ops import linear_cross_entropy
from mmpt.tokens import Grammar, TokenSpace

CHUNK = 128  # tokens of a chunk: the unit of the paired interval
ROWS = 32  # chunks a batch
RUN, COPIED_SHARE = 8, 0.7  # words of a run, and the share of a line's words in known runs from which it is copied
WORD = re.compile(r"\w+")
CONTINUED = 24  # tokens generated after a fixed prompt

# Also continued by a model of another language or of a toy grammar: what matters is before against after.
FIXED_PROMPTS = (
    "The capital of France is",
    "Water boils at",
    "She opened the door and",
    "Two plus two equals",
    "Once upon a time",
)


def chunks(ids: np.ndarray, limit: int) -> np.ndarray:
    """int64 [n, CHUNK]: whole chunks with at least `limit` supervised tokens (CHUNK - 1 each), or all."""
    wanted = -(-limit // (CHUNK - 1))
    whole = ids[: len(ids) // CHUNK * CHUNK].reshape(-1, CHUNK)
    return whole[:wanted].astype(np.int64)


@torch.no_grad()
def chunk_losses(
    model,
    pieces: np.ndarray,
    columns: tuple[int, int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """-log p of every token but a chunk's first, nats, float64 [n, CHUNK - 1]; softmax over `columns`."""
    device, losses = model.head()[0].device, []
    for start in range(0, len(pieces), ROWS):
        ids = torch.as_tensor(pieces[start : start + ROWS], device=device)
        progress(start, len(pieces))
        losses.append(piece_nll(model, ids, columns).double().cpu().numpy())
    return np.concatenate(losses)


@torch.no_grad()
def piece_nll(model, ids: torch.Tensor, columns: tuple[int, int]) -> torch.Tensor:
    """fp32 [n, L - 1]: the same of one batch, ids int64 [n, L], on the device."""
    position_ids = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)
    hidden = model.hidden(ids, position_ids, packed=False)[:, :-1]
    loss = linear_cross_entropy(
        hidden.reshape(-1, hidden.shape[-1]),
        ids[:, 1:].reshape(-1),
        *model.head(),
        column_range=columns,
        reduction="none",
    )
    return loss.reshape(len(ids), -1)


def unigram_losses(train_ids: np.ndarray, pieces: np.ndarray, vocab: int) -> np.ndarray:
    """The same shape for the unigram of `train_ids` with one added to every count."""
    counts = np.bincount(train_ids, minlength=vocab).astype(np.float64) + 1.0
    return -np.log(counts / counts.sum())[pieces[:, 1:]]


def shared_lines(lines: Iterable[str], others: Iterable[str]) -> tuple[int, int]:
    """(lines that are among the others, case, spaces and punctuation aside; all lines that hold a word)."""
    plain = Counter(text for line in lines if (text := _plain(line)))
    # Of the others, which may be very many, no more than this stays.
    shared = set(filter(plain.__contains__, map(_plain, others)))
    return sum(plain[text] for text in shared), plain.total()


def copied_lines(lines: Iterable[str], others: Iterable[str]) -> int:
    """How many lines are largely made of runs of words that the others hold.

    A line counts if COPIED_SHARE of its words lie in runs of RUN words that occur in another line, or, shorter than a
    run, if it is another line. It finds what ``shared_lines`` does not: two lines joined, a line cut or added to.
    Shared n-grams of words are what Brown et al. 2020 and Chowdhery et al. 2022 look for in their test sets.
    """
    held = [words for line in lines if (words := _plain(line).split())]
    wanted = {run for words in held for run in _runs(words)}
    known = {run for line in others for run in _runs(_plain(line).split()) if run in wanted}
    return sum(_covered(words, known) >= COPIED_SHARE * len(words) for words in held)


def _runs(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Every run of RUN words; all of them where there are fewer."""
    return (tuple(words[at : at + RUN]) for at in range(max(1, len(words) - RUN + 1)))


def _covered(words: Sequence[str], known: Collection[tuple[str, ...]]) -> int:
    """Words that lie in a known run."""
    places: set[int] = set()
    for at, run in enumerate(_runs(words)):
        if run in known:
            places.update(range(at, at + len(run)))
    return len(places)


def _plain(text: str) -> str:
    return " ".join(WORD.findall(text.casefold()))


def paired(after: np.ndarray, before: np.ndarray, resamples: int, seed: int) -> Interval:
    """Mean of (after - before) over tokens; the interval draws chunks, `n` counts tokens."""
    difference = (after - before).mean(axis=1)
    interval = mean_interval(difference, resamples=resamples, seed=seed)
    return Interval(interval.value, interval.low, interval.high, after.size, len(difference))


@dataclass(frozen=True)
class Continued:
    prompt: str
    text: str


def continuations(model, space: TokenSpace, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[Continued]:
    """Greedy continuations by CONTINUED text tokens."""
    encoded = [tokenizer.encode(text, add_special_tokens=False).ids for text in prompts]
    free = Grammar(
        task="text",
        lo=np.zeros(CONTINUED, np.int64),
        hi=np.full(CONTINUED, space.text_vocab_size, np.int64),
        end_allowed=np.zeros(CONTINUED, bool),
        end_id=space.special("text_end"),
        min_len=CONTINUED,
        max_len=CONTINUED,
    )
    given = [np.asarray(ids) for ids in encoded]
    outputs = generate(model, given, [free] * len(encoded), measure_mass=False)
    return [Continued(text, tokenizer.decode(one.ids.tolist())) for text, one in zip(prompts, outputs, strict=True)]


def heldout_prompts(path: Path, n: int = 4) -> tuple[str, ...]:
    """The first three words of the first `n` held-out lines."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return tuple(" ".join(line.split()[:3]) for line in lines[:n])
