"""The decoding engine: prompts and grammars in, ids out. It knows no tokenizer, codec or task.

Outputs are decoded in slots (`mmpt.generate.slots`), all one id further a step, each at a position of its
own. When one is finished, its slot takes the next that waits, so that none idles for the longest of a
batch. At each position only the head rows the grammar allows are multiplied, so an id that does not belong
there cannot come out. On a CPU a wide range, which is a caption's, is drawn by a screen of the head
(`mmpt.ops.Screen`): its rows in int8, made once a generation, a quarter of the memory of an fp32 head; ids are
the same without it. The host checks after each step on a CPU which slots have ended, because that costs nothing there,
elsewhere at most every `LOOK_EVERY` steps; where lengths are exact it never waits for the device before an
output is whole.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmpt.generate.graphs import Stepper, plain_writes
from mmpt.generate.mass import is_open, measured_masses, most_measured
from mmpt.generate.slots import BufferSizes, Item, Slots
from mmpt.ops import Screen, screen
from mmpt.tokens.grammar import Grammar

LOOK_EVERY = 8
# A screen is made where it pays. Of 164,021 fp32 rows at H = 256, one thread: 48 ms to make it; then a greedy draw
# from 151,669 ids takes 1.8 ms in place of 13.4 at batch 1, 3.1 in place of 34.7 at 16 (AMX; 1.7 and 7.3 with VNNI).
# Without products of bytes it would win at batch 1 alone (AVX2: 3 ms, but 46 at 16): there `screen` gives None.
WIDE = 16_384  # ids; narrower rows of the head stay in the cache
SCREENED_STEPS = 16
ALIGNED = 16  # columns of a cache row come in multiples of it: attention kernels like their mask so


@dataclass(frozen=True)
class Generated:
    """One output.

    Args:
        ids: int32 [n], the payload without its end token.
        ended: whether the model chose the end token where the grammar allowed it, or the length was fixed.
        legal_mass: probability that the softmax over the whole vocabulary gives to the allowed ids, in 0..1; the mean
            over the positions, in a long output over a fixed sample of them (`mmpt.generate.mass`); NaN: not measured.
        masses: float64, the same at each measured position, ascending; None: not measured.
    """

    ids: np.ndarray
    ended: bool
    legal_mass: float
    masses: np.ndarray | None = None


def generate(
    model,
    prompts: Sequence[np.ndarray],
    grammars: Sequence[Grammar],
    *,
    temperature: float | Sequence[float] = 0.0,
    top_k: int | Sequence[int] = 0,
    top_p: float | Sequence[float] = 1.0,
    seeds: Sequence[int] | None = None,
    guidance: float = 1.0,
    batch_size: int = 64,
    empty_prompts: Sequence[np.ndarray] = (),
    measure_mass: bool = True,
) -> list[Generated]:
    """Decode every prompt under its grammar; outputs are in the order of the prompts.

    An output is a function of the model, its prompt, grammar, seed and sampling settings. Items are decoded in another
    order for speed; neither that nor `batch_size` changes an output, up to the rounding of matrix products.

    Args:
        model: a `MultimodalLM`, or another with its `head`, `hidden`, `dtype` and `config`. Merge its adapter first
            (`MultimodalLM.merged`), or every step pays for it.
        prompts: int ids [P_i] each, up to and including the start token.
        grammars: one per prompt.
        temperature: a number, or one per prompt; 0: greedy.
        top_k, top_p: a number, or one per prompt; 0 and 1.0 keep all.
        seeds: one per prompt; None: 0 for all.
        guidance: g, for logits empty + g * (prompt - empty). Other than 1 it needs `empty_prompts` and doubles the
            batch.
        batch_size: largest number of outputs that are decoded at the same time.
        measure_mass: measure `Generated.legal_mass`.

    Raises:
        ValueError: lists of different lengths, an empty prompt, or NaN logits; on CUDA these are raised with the
            finished output.
    """
    items = _items(model, prompts, grammars, guidance, empty_prompts, measure_mass, temperature, top_k, top_p, seeds)
    if not items:
        return []
    with plain_writes(model.head()[0].device):
        return _decode(model, items, guidance, batch_size, measure_mass)


@torch.no_grad()
def reserve(
    model,
    prompts: Sequence[np.ndarray],
    grammars: Sequence[Grammar],
    *,
    guidance: float = 1.0,
    batch_size: int = 64,
    empty_prompts: Sequence[np.ndarray] = (),
) -> None:
    """Allocate what `generate` of these prompts allocates at its most: all slots filled, one step at the full width.

    Nothing is read back, so that it runs on device "meta", where its memory can be counted.
    """
    items = _items(model, prompts, grammars, guidance, empty_prompts, measure_mass=True)
    shape = _shape(items, batch_size)
    slots = Slots(model, shape, guidance)
    slots.admit(dict(enumerate(items[i] for i in _order(items)[: shape.slots])))
    slots.step(shape.columns)


def _items(
    model,
    prompts: Sequence[np.ndarray],
    grammars: Sequence[Grammar],
    guidance: float,
    empty_prompts: Sequence[np.ndarray],
    measure_mass: bool,
    temperature: float | Sequence[float] = 0.0,
    top_k: int | Sequence[int] = 0,
    top_p: float | Sequence[float] = 1.0,
    seeds: Sequence[int] | None = None,
) -> list[Item]:
    """The checked arguments of `generate`, one item per prompt."""
    n, guided = len(prompts), guidance != 1.0
    columns: dict[str, Sequence[Any]] = {
        "prompts": prompts,
        "grammars": grammars,
        "empty_prompts": empty_prompts if guided or len(empty_prompts) else [None] * n,
        "temperature": _one_each(temperature, n),
        "top_k": _one_each(top_k, n),
        "top_p": _one_each(top_p, n),
        "seeds": [0] * n if seeds is None else seeds,
    }
    for name, column in columns.items():
        if len(column) != n:
            why = "; guidance other than 1 needs one empty prompt an item" if guided else ""
            raise ValueError(f"{n} prompts, but {len(column)} {name}{why}")
    vocab_size = sum(len(rows) for rows in model.head() if rows is not None)
    items = [
        Item(
            (prompt, empty) if guided else (prompt,),
            grammar,
            heat,
            keep,
            mass,
            seed,
            measure_mass and not is_open(grammar, vocab_size),
        )
        for prompt, grammar, empty, heat, keep, mass, seed in zip(*columns.values(), strict=True)
    ]
    for place, item in enumerate(items):
        if not all(map(len, item.prompts)):
            raise ValueError(f"prompt {place} is empty: decoding starts from at least one id")
    return items


def _one_each(value, n: int) -> Sequence:
    return [value] * n if isinstance(value, int | float) else value


def unconstrained(
    model, prompts: Sequence[np.ndarray], grammars: Sequence[Grammar], *, vocab_size: int, **how
) -> list[Generated]:
    """Decodes with the whole vocabulary open at every position, for the rates that the grammar would hide."""
    return generate(model, prompts, [opened(grammar, vocab_size) for grammar in grammars], **how)


def opened(grammar: Grammar, vocab_size: int) -> Grammar:
    """`grammar` without its rules: any id anywhere, up to the end token or one position after its `max_len`.

    Whether what comes out is valid is `mmpt.tokens.check`'s to say; its legal mass is 1 by definition.
    """
    steps = grammar.max_len + 1
    return Grammar(
        task=grammar.task,
        lo=np.zeros(steps, np.int64),
        hi=np.full(steps, vocab_size, np.int64),
        end_allowed=np.zeros(steps, bool),
        end_id=grammar.end_id,
        min_len=0,
        max_len=steps,
    )


@torch.no_grad()
def _decode(model, items: Sequence[Item], guidance: float, batch_size: int, measure_mass: bool) -> list[Generated]:
    shape = _shape(items, batch_size)
    slots = Slots(model, shape, guidance, _screened(model, items, shape))
    step = Stepper(slots.step, shape.columns, slots.device)
    waiting = deque(_order(items))
    living: dict[int, _Living] = {}
    outputs: dict[int, Generated] = {}
    every = 1 if slots.device.type == "cpu" else LOOK_EVERY
    while waiting or living:
        free = [slot for slot in range(shape.slots) if slot not in living][: len(waiting)]
        if free:
            taken = {slot: waiting.popleft() for slot in free}
            slots.admit({slot: items[i] for slot, i in taken.items()})
            living |= {slot: _Living(i, items[i]) for slot, i in taken.items()}
        span = min(every, max(one.left for one in living.values()))
        width = max(one.column for one in living.values()) + 1
        for further in range(span):
            step(min(width + further, shape.columns))
        living = {slot: one.after(span) for slot, one in living.items()}
        ended = slots.ended() if any(one.may_end for one in living.values()) else [False] * shape.slots
        finished = [slot for slot, one in living.items() if one.left <= 0 or ended[slot]]
        for slot, drawn in zip(finished, slots.take(finished) if finished else (), strict=True):
            one = living.pop(slot)
            outputs[one.place] = _collected(slots, slot, one.item, drawn, measure_mass)
    return [outputs[i] for i in range(len(items))]


@dataclass(frozen=True)
class _Living:
    """What the host knows of an output being decoded: steps `done`, unless it has ended before."""

    place: int
    item: Item
    done: int = 0

    def after(self, steps: int) -> _Living:
        return _Living(self.place, self.item, self.done + steps)

    @property
    def left(self) -> int:
        return self.item.grammar.max_len - self.done

    @property
    def column(self) -> int:
        """Where the next state is written."""
        return max(map(len, self.item.prompts)) - 1 + self.done

    @property
    def may_end(self) -> bool:
        """Whether it can be finished before its longest length."""
        return self.item.grammar.min_len < self.item.grammar.max_len


def _order(items: Sequence[Item]) -> list[int]:
    """Wide ranges apart from narrow ones, because a step reads a wide range's head rows for one slot as for
    all; then long outputs first, so that short ones fill the slots at the end.
    """

    def key(i: int) -> tuple[int, ...]:
        return -items[i].widest, -items[i].grammar.max_len, -items[i].length, i

    return sorted(range(len(items)), key=key)


def _shape(items: Sequence[Item], batch_size: int) -> BufferSizes:
    steps, columns = max(item.grammar.max_len for item in items), max(item.length for item in items)
    return BufferSizes(
        slots=min(batch_size, len(items)),
        rows_each=len(items[0].prompts),
        columns=-(-columns // ALIGNED) * ALIGNED,
        steps=steps,
        widest=max(item.widest for item in items),
        kept=most_measured(steps) if any(item.measure for item in items) else 0,
    )


def _screened(model, items: Sequence[Item], shape: BufferSizes) -> Screen | None:
    """A screen of the head where enough steps draw from wide ranges, and where this machine has one."""
    # A nucleus (top_p) is found among all logits, so a screen saves it nothing.
    served = (item for item in items if item.temperature == 0 or item.top_p == 1)
    wide = sum(item.grammar.max_len for item in served if item.widest >= WIDE)
    return screen(*model.head()) if wide >= SCREENED_STEPS * shape.slots else None


def _collected(slots: Slots, slot: int, item: Item, drawn: np.ndarray, measure_mass: bool) -> Generated:
    grammar = item.grammar
    ids = drawn[: grammar.max_len]
    if (ids < 0).any():
        raise ValueError(f"position {int(np.argmax(ids < 0))} of a {grammar.task} output has a NaN logit")
    ends = np.flatnonzero(ids == grammar.end_id)
    decoded = int(ends[0]) + 1 if len(ends) else grammar.max_len
    mass, masses = 1.0 if measure_mass else float("nan"), None
    if item.measure:
        assert slots.kept is not None  # it is filled where an item is measured
        masses = measured_masses(slots.kept[slot], slots.model.head(), grammar, decoded)
        mass = float(masses.mean())
    ended = len(ends) > 0 or grammar.min_len == grammar.max_len
    return Generated(ids[: ends[0] if len(ends) else None].astype(np.int32), ended, mass, masses)
