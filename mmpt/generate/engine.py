"""The decoding engine: prompts and grammars in, ids out. It knows no tokenizer, codec or task.

One batch runs as one left-padded prefill and then one forward a position. At each position only the head rows
the grammar allows are multiplied, so an id that does not belong there cannot come out. Where no row can end
early the loop never waits for the device; where the end is learned it looks every `LOOK_EVERY` positions
whether all are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmpt.generate.cache import FixedCache
from mmpt.ops import sample_range
from mmpt.tokens.grammar import Grammar

LOOK_EVERY = 8


@dataclass(frozen=True)
class Generated:
    """One output: `ids` int32 [n] is the payload without the end token.

    `ended`: the model put the end token where the grammar left it a choice, or the length was exact from the
    start.
    `legal_mass`: mean over the positions decoded of the probability which the softmax over the whole
    vocabulary gives to the allowed ids (1.0 would mean the grammar had nothing to forbid).
    """

    ids: np.ndarray
    ended: bool
    legal_mass: float


@dataclass(frozen=True)
class _Items:
    """What generate was asked, one entry an item; indexing by a list of places gives a batch of it."""

    prompts: Sequence[np.ndarray]
    empty_prompts: Sequence[np.ndarray]
    grammars: Sequence[Grammar]
    temperature: Sequence[float]
    top_k: Sequence[int]
    top_p: Sequence[float]
    seeds: Sequence[int]

    def take(self, places: Sequence[int]) -> _Items:
        return _Items(*([column[i] for i in places] if len(column) else [] for column in vars(self).values()))

    def check(self, guidance: float) -> None:
        n = len(self.prompts)
        for name, column in vars(self).items():
            left_out = name == "empty_prompts" and guidance == 1.0 and not column
            if len(column) != n and not left_out:
                why = "; guidance other than 1 needs one empty prompt an item" if guidance != 1.0 else ""
                raise ValueError(f"{n} prompts, but {len(column)} {name}{why}")


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
    """Decodes every prompt (int ids [P_i], up to and including the start token) under its grammar, in order.

    temperature (0: greedy), top_k, top_p: a number, or one an item. A sample is a function of (model, prompt,
    grammar, temperature.., its seed): items are grouped by length for speed, and neither that nor
    `batch_size` changes what comes out, up to the rounding of a matrix product in another shape.
    guidance g follows empty + g * (prompt - empty); other than 1 it needs `empty_prompts` and doubles the
    batch. measure_mass: multiply the whole head too, for `Generated.legal_mass`; else that is NaN.
    Raises ValueError on lists of unlike length, and on NaN logits: at once on a CPU, after the batch on CUDA.
    """
    n = len(prompts)
    items = _Items(
        prompts,
        empty_prompts,
        grammars,
        _one_each(temperature, n),
        _one_each(top_k, n),
        _one_each(top_p, n),
        [0] * n if seeds is None else seeds,
    )
    items.check(guidance)
    order = sorted(range(n), key=lambda i: (grammars[i].max_len, len(prompts[i]), i))
    outputs: dict[int, Generated] = {}
    for start in range(0, n, batch_size):
        chosen = order[start : start + batch_size]
        outputs.update(
            zip(chosen, _run_batch(model, items.take(chosen), guidance, measure_mass), strict=True)
        )
    return [outputs[i] for i in range(n)]


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
def _run_batch(model, items: _Items, guidance: float, measure_mass: bool) -> list[Generated]:
    n, guided, device = len(items.prompts), guidance != 1.0, model.head()[0].device
    plan = _Plan.of(items.grammars, device)
    draw = _Draw.of(items, plan.widest, device)
    prompts = [*items.prompts, *items.empty_prompts] if guided else items.prompts
    ids, position_ids, real = _left_padded(prompts, plan.steps, device)
    width = ids.shape[1]
    cache = FixedCache(model.config.num_hidden_layers, width + plan.steps - 1)
    bias, columns = _prefill_bias(real, width, model.dtype), _as_bias(real, model.dtype)[:, None, None, :]
    out = torch.empty(n, plan.steps, dtype=torch.int64, device=device)
    mass, counted = (torch.zeros(n, dtype=torch.float64, device=device) for _ in range(2))
    done = torch.zeros(n, dtype=torch.bool, device=device)
    for step in range(plan.steps):
        hidden = model.hidden(ids, position_ids, attention_mask=bias, past_key_values=cache)[:, -1]
        bounds = plan.lo[:, step], plan.hi[:, step], plan.extra[:, step]
        if measure_mass:
            live = ~done & (plan.lengths > step)
            mass += torch.where(live, allowed_mass(hidden[:n], model.head(), *bounds), 0.0)
            counted += live
        if guided:
            # The head is linear: mixing the two hidden states is mixing the two rows of logits.
            hidden = hidden[n:] + guidance * (hidden[:n] - hidden[n:])
        out[:, step] = drawn = draw(hidden, model.head(), bounds, step)
        done |= drawn == plan.end_ids
        if (
            plan.may_end
            and step % LOOK_EVERY == LOOK_EVERY - 1
            and bool((done | (plan.lengths <= step + 1)).all())
        ):
            out[:, step + 1 :] = plan.end_ids[:, None]
            break
        ids = (drawn.repeat(2) if guided else drawn)[:, None]
        position_ids, bias = position_ids[:, -1:] + 1, columns[..., : width + step + 1]
    shares = mass / counted if measure_mass else torch.full_like(mass, torch.nan)
    return plan.collect(out.cpu().numpy(), shares.tolist())


@dataclass(frozen=True)
class _Draw:
    """One id a row; each row with its own temperature, filters and seed, all `[B]`."""

    temperature: torch.Tensor
    top_k: torch.Tensor
    top_p: torch.Tensor
    seed: torch.Tensor
    widest: int

    @staticmethod
    def of(items: _Items, widest: int, device) -> _Draw:
        def put(values, dtype) -> torch.Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        return _Draw(
            put(items.temperature, torch.float64),
            put(items.top_k, torch.int64),
            put(items.top_p, torch.float64),
            put((seed % 2**63 for seed in items.seeds), torch.int64),
            widest,
        )

    def __call__(self, hidden: torch.Tensor, head, bounds, step: int) -> torch.Tensor:
        lo, hi, extra = bounds
        return sample_range(
            hidden,
            *head,
            lo,
            hi,
            extra_id=extra,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            seed=self.seed,
            offset=step,
            max_range=self.widest,
        )


@dataclass(frozen=True)
class _Plan:
    """The grammars of a batch as tensors `[B, steps]`; positions after a row's own length are never read."""

    grammars: Sequence[Grammar]
    steps: int
    widest: int
    may_end: bool
    lengths: torch.Tensor
    end_ids: torch.Tensor
    lo: torch.Tensor
    hi: torch.Tensor
    extra: torch.Tensor

    @staticmethod
    def of(grammars: Sequence[Grammar], device) -> _Plan:
        steps = max(grammar.max_len for grammar in grammars)
        lo, hi = np.zeros((len(grammars), steps), np.int64), np.ones((len(grammars), steps), np.int64)
        extra = np.full((len(grammars), steps), -1, np.int64)
        for row, grammar in enumerate(grammars):
            lo[row, : grammar.max_len], hi[row, : grammar.max_len] = (
                grammar.lo[: grammar.max_len],
                grammar.hi[: grammar.max_len],
            )
            extra[row, : grammar.max_len] = np.where(
                grammar.end_allowed[: grammar.max_len], grammar.end_id, -1
            )

        def put(values) -> torch.Tensor:
            return torch.as_tensor(np.asarray(values, np.int64), device=device)

        return _Plan(
            grammars,
            steps,
            int((hi - lo).max()),
            any(grammar.min_len < grammar.max_len for grammar in grammars),
            put([grammar.max_len for grammar in grammars]),
            put([grammar.end_id for grammar in grammars]),
            put(lo),
            put(hi),
            put(extra),
        )

    def collect(self, out: np.ndarray, mass: list[float]) -> list[Generated]:
        rows = []
        for grammar, ids, share in zip(self.grammars, out, mass, strict=True):
            ids = ids[: grammar.max_len]
            if (ids < 0).any():
                raise ValueError(f"position {int(np.argmax(ids < 0))} of a {grammar.task} output has a NaN logit")
            ends = np.flatnonzero(ids == grammar.end_id)
            ended = len(ends) > 0 or grammar.min_len == grammar.max_len
            rows.append(Generated(ids[: ends[0] if len(ends) else None].astype(np.int32), ended, share))
        return rows


def allowed_mass(hidden, head, lo, hi, extra) -> torch.Tensor:
    """Probability `[B]` (float64) of `[lo, hi)` and `extra` (-1: none) under the softmax over all columns.

    `hidden` [B, H]; `head` the pair (base rows [V0, H], new rows [T, H] or None).
    """
    logits = torch.cat([(hidden.to(w.dtype) @ w.T).float() for w in head if w is not None], dim=1)
    column = torch.arange(logits.shape[1], device=logits.device)
    allowed = (column >= lo[:, None]) & (column < hi[:, None]) | (column == extra[:, None])
    inside = logits.masked_fill(~allowed, -torch.inf).logsumexp(1)
    return (inside - logits.logsumexp(1)).double().exp()


def _left_padded(prompts, steps: int, device):
    """Ids and positions `[B, P]`, and which of all `P + steps` columns hold something real, bool."""
    width = max(len(prompt) for prompt in prompts)
    ids = np.zeros((len(prompts), width), np.int64)
    real = np.ones((len(prompts), width + steps), bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = prompt
        real[row, : width - len(prompt)] = False
    positions = np.maximum(np.cumsum(real[:, :width], axis=1) - 1, 0)
    return tuple(torch.as_tensor(array, device=device) for array in (ids, positions, real))


def _as_bias(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive attention mask: 0 where allowed, the smallest finite number elsewhere.

    Finite, so that a padding query, which sees nothing, gives a uniform row instead of NaN that would spread.
    """
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(
        ~allowed, torch.finfo(dtype).min
    )


def _prefill_bias(real: torch.Tensor, width: int, dtype: torch.dtype) -> torch.Tensor:
    causal = torch.ones(width, width, dtype=torch.bool, device=real.device).tril()
    return _as_bias(causal & real[:, None, None, :width], dtype)
