"""The four sequence formats and their label masks, as data.

    a2t  aud_start AUD.. aud_end gen_text text_start | TEXT.. text_end
    i2t  img_start IMG.. img_end gen_text text_start | TEXT.. text_end
    t2a  text_start TEXT.. text_end gen_aud aud_start | AUD.. aud_end
    t2i  text_start TEXT.. text_end gen_img img_start | IMG.. img_end

The part right of the bar is supervised: the payload or caption, and its end token. Labels are aligned with the inputs
(labels[i] == input_ids[i]); the loss shifts them. Length limits are enforced elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.tasks import TASKS
from mmpt.tokens.space import TokenSpace

IGNORE = -100


@dataclass(frozen=True)
class Layout:
    """One task's sequence: `head` source `join` target `end`; names are roles of special tokens."""

    source: str  # "text", "audio" or "image": what is given
    target: str  # what is supervised
    head: tuple[str, ...]
    join: tuple[str, ...]
    end: str


LAYOUTS: dict[str, Layout] = {
    "a2t": Layout("audio", "text", ("aud_start",), ("aud_end", "gen_text", "text_start"), "text_end"),
    "i2t": Layout("image", "text", ("img_start",), ("img_end", "gen_text", "text_start"), "text_end"),
    "t2a": Layout("text", "audio", ("text_start",), ("text_end", "gen_aud", "aud_start"), "aud_end"),
    "t2i": Layout("text", "image", ("text_start",), ("text_end", "gen_img", "img_start"), "img_end"),
}
OVERHEAD = 5  # special tokens of every format: head, join and end


@dataclass(frozen=True)
class Example:
    """One sequence of length L.

    Args:
        input_ids: int32 [L].
        labels: int32 [L]; equal to input_ids (not shifted) on the target, -100 elsewhere.
        slots: int8 [L]; index into SLOTS(space) of each label on the target, -1 elsewhere.
    """

    input_ids: np.ndarray
    labels: np.ndarray
    slots: np.ndarray

    def __len__(self) -> int:
        return len(self.input_ids)


def SLOTS(space: TokenSpace) -> tuple[str, ...]:
    """Names of the label slots, the groups of labels whose losses are reported apart; each codebook is one."""
    codebooks = tuple(f"audio_cb{k}" for k in range(space.n_codebooks))
    return ("text", "text_end", "image", "image_end", *codebooks, "audio_end")


def prompt(space: TokenSpace, task: str, source_ids) -> np.ndarray:
    """int32 [n]: the sequence up to the first token of the target.

    Args:
        source_ids: text ids for t2a and t2i, where [] is the empty prompt; payload ids for a2t and i2t.

    Raises:
        UserError: an unknown task, or an id outside its segment.
    """
    layout = _layout(task)
    source = _segment(space, layout.source, source_ids)
    return np.concatenate([_specials(space, layout.head), source, _specials(space, layout.join)])


def build(space: TokenSpace, task: str, text_ids, payload_ids) -> Example:
    """The sequence of one record.

    Args:
        text_ids: int [n], the caption.
        payload_ids: int [m], ids (not codes) of the picture or sound.

    Raises:
        UserError: an unknown task, an id outside its segment, or a target without tokens.
    """
    layout = _layout(task)
    reads = layout.target == "text"
    source, target = (payload_ids, text_ids) if reads else (text_ids, payload_ids)
    given = prompt(space, task, source)
    answer = _segment(space, layout.target, target)
    if not len(answer):
        raise UserError(
            f"{task}: nothing to supervise",
            found=f"an empty {layout.target} target",
            expected="at least one token",
        )
    supervised = np.append(answer, np.int32(space.special(layout.end)))
    return Example(
        input_ids=np.concatenate([given, supervised]),
        labels=np.concatenate([np.full(len(given), IGNORE, np.int32), supervised]),
        slots=np.concatenate([np.full(len(given), -1, np.int8), _slots(space, layout.target, len(answer))]),
    )


def build_text(space: TokenSpace, ids) -> Example:
    """Plain text for replay: text ids int [n], n >= 2, without special tokens, all but the first supervised.

    Raises:
        UserError: an id outside TEXT, or fewer than two.
    """
    ids = space.check_text(ids)
    if len(ids) < 2:
        raise UserError("text is too short to supervise", found=f"{len(ids)} tokens", expected="at least 2")
    labels, slots = ids.copy(), np.zeros(len(ids), np.int8)
    labels[0], slots[0] = IGNORE, -1
    return Example(ids, labels, slots)


def _layout(task: str) -> Layout:
    if task not in LAYOUTS:
        raise UserError("unknown task", found=repr(task), expected=" ".join(TASKS))
    return LAYOUTS[task]


def _specials(space: TokenSpace, roles: tuple[str, ...]) -> np.ndarray:
    return np.array([space.special(role) for role in roles], np.int32)


def _segment(space: TokenSpace, kind: str, ids) -> np.ndarray:
    """`ids` as int32. Raises UserError, which names the first id outside the segment of its position."""
    if kind == "text":
        return space.check_text(ids)
    from_global = space.image_from_global if kind == "image" else space.audio_from_global
    from_global(ids)
    return np.asarray(ids, np.int32)


def _slots(space: TokenSpace, kind: str, n: int) -> np.ndarray:
    """int8 [n + 1]: the slot of each payload token and of the end token."""
    names = SLOTS(space)
    first = names.index({"text": "text", "image": "image", "audio": "audio_cb0"}[kind])
    book = space.stream.codebooks_at(n) if kind == "audio" else np.zeros(n, np.int64)
    return np.append(first + book, names.index(f"{kind}_end")).astype(np.int8)
