"""The decode grammar as data: which ids may come at each position of a payload, and where it may end.

A grammar is four arrays and two bounds. It knows nothing of a model, of sampling or of batches. A
decoder multiplies only the rows [lo, hi) of the head, so that an id outside them cannot be drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmpt.store.errors import UserError
from mmpt.store.tasks import TASKS
from mmpt.tokens.formats import LAYOUTS
from mmpt.tokens.space import TokenSpace


@dataclass(frozen=True)
class Grammar:
    """What may stand at position p of the payload, p < P = max_len.

    lo, hi: int64 [P], an id in [lo[p], hi[p]) is allowed. end_allowed: bool [P], there the end token is
    allowed too. At position P only `end_id` is. `min_len`, `max_len`: bounds of the payload's length, end
    token not counted.
    """

    task: str
    lo: np.ndarray
    hi: np.ndarray
    end_allowed: np.ndarray
    end_id: int
    min_len: int
    max_len: int

    def at(self, position: int) -> tuple[int, int, int]:
        """(lo, hi, extra): ids allowed at a position are [lo, hi) and `extra`; extra is -1 when there is
        none.
        """
        if position >= self.max_len:
            return self.end_id, self.end_id + 1, -1
        extra = self.end_id if self.end_allowed[position] else -1
        return int(self.lo[position]), int(self.hi[position]), extra

    def may_stop(self, length: int) -> bool:
        """May a payload of this length be followed by the end token?"""
        return length == self.max_len or (length < self.max_len and bool(self.end_allowed[length]))


def grammar(
    space: TokenSpace,
    task: str,
    *,
    frames: int | tuple[int, int] | None = None,
    tokens_per_image: int | None = None,
    text: tuple[int, int] | None = None,
) -> Grammar:
    """The grammar of a task's target.

    t2a needs `frames`: a number (exact length) or (least, most): then the end is allowed on frame boundaries
    from the least on, which only an order frame by frame has (see stream.py). t2i needs `tokens_per_image`.
    a2t and i2t need `text`: (least, most) tokens.
    """
    if task not in TASKS:
        raise UserError("unknown task", found=repr(task), expected=" ".join(TASKS))
    target = LAYOUTS[task].target
    end_id = space.special(LAYOUTS[task].end)
    if target == "audio":
        least, most = (frames, frames) if isinstance(frames, (int, np.integer)) else _bounds(task, "frames", frames)
        _ordered(task, "frames", least, most)
        step = space.stream.width
        if least < most and not space.stream.open_ended:
            raise UserError(
                f"{task}: where a sound ends cannot be left open in this order of its codes",
                found=f"{least} to {most} frames, order {space.stream.order}",
                expected="one number of frames, or order frame",
                fix="codecs.audio.order: frame",
            )
    elif target == "image":
        least = most = _number(task, "tokens_per_image", tokens_per_image)
        step = 1
    else:
        least, most = _bounds(task, "text", text)
        _ordered(task, "text", least, most)
        step = 1
    if target != "text" and not space.segments(target):
        raise UserError(f"{task}: this token space has no {target} segment", expected=f"a space built with {target}")
    p = np.arange(most * step)
    words = space.ranges["TEXT"]
    whole = np.full(len(p), words.start), np.full(len(p), words.stop)
    lo, hi = whole if target == "text" else space.payload_ranges(target, len(p))
    return Grammar(
        task=task,
        lo=lo,
        hi=hi,
        end_allowed=(p % step == 0) & (p >= least * step),
        end_id=end_id,
        min_len=least * step,
        max_len=most * step,
    )


def check(g: Grammar, ids, complete: bool = True) -> None:
    """Refuses a payload that the grammar does not allow.

    `ids` int[n] is the payload, with or without the end token behind it. `complete=False` takes any prefix of
    a legal payload. Raises UserError naming the first offending id and position.
    """
    ids = np.asarray(ids, np.int64)
    ended = len(ids) > 0 and ids[-1] == g.end_id
    body = ids[:-1] if ended else ids
    inside = body[: g.max_len]
    bad = (inside < g.lo[: len(inside)]) | (inside >= g.hi[: len(inside)])
    if bad.any():
        p = int(np.argmax(bad))
        raise UserError(
            f"{g.task}: id {int(inside[p])} is not allowed at position {p} of the payload",
            found=str(int(inside[p])),
            expected=f"{int(g.lo[p])}..{int(g.hi[p]) - 1}",
        )
    if len(body) > g.max_len:
        raise UserError(
            f"{g.task}: the payload is too long: id {int(body[g.max_len])} at position {g.max_len}",
            found=f"{len(body)} tokens",
            expected=f"at most {g.max_len}",
        )
    if (complete or ended) and not g.may_stop(len(body)):
        raise UserError(
            f"{g.task}: the payload may not end at position {len(body)}",
            found=f"{len(body)} tokens",
            expected=f"{g.min_len}..{g.max_len}, on a frame boundary"
            if g.task == "t2a"
            else f"{g.min_len}..{g.max_len}",
        )


def _number(task: str, name: str, value: int | None) -> int:
    if value is None or value < 1:
        raise UserError(f"{task} needs {name}", found=repr(value), expected="a number of at least 1")
    return value


def _bounds(task: str, name: str, value: tuple[int, int] | None) -> tuple[int, int]:
    if value is None:
        raise UserError(f"{task} needs {name}", found="nothing", expected="(least, most)")
    return value


def _ordered(task: str, name: str, least: int, most: int) -> None:
    if not 0 <= least <= most or most < 1:
        raise UserError(
            f"{task}: {name} bounds are out of order",
            found=f"({least}, {most})",
            expected="0 <= least <= most, most >= 1",
        )
