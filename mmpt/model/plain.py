"""The independent scorer: a checkpoint as a plain transformers model, and its losses of targets after prompts.

Gates that compare generation and training with each other would pass a fault that both contain. So nothing here comes
from training or decoding: transformers loads the base with its own attention; LoRA is added to the weights by its
formula (Hu et al. 2021), W + alpha / r * B A; the new rows are put below the base's. A sequence is built from the
format's words in this file; sequences of one length run together, so that there is no padding, packing, mask or cache.
It knows only the files (`adapter_model.safetensors`), the token space, and the four formats of the specification.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmpt.codecs.decoders import rows_in_order
from mmpt.store.errors import UserError
from mmpt.store.tasks import READ_TASKS
from mmpt.store.tensors import read_meta
from mmpt.tokens.space import TokenSpace

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
ROWS = ".token_adapter.trainable_tokens_delta"
SOURCE, TARGET = "<source>", "<target>"
FORMATS = {
    "a2t": ("aud_start", SOURCE, "aud_end", "gen_text", "text_start", TARGET, "text_end"),
    "i2t": ("img_start", SOURCE, "img_end", "gen_text", "text_start", TARGET, "text_end"),
    "t2a": ("text_start", SOURCE, "text_end", "gen_aud", "aud_start", TARGET, "aud_end"),
    "t2i": ("text_start", SOURCE, "text_end", "gen_img", "img_start", TARGET, "img_end"),
}
TOKENS_AT_ONCE = 8192  # ids of one forward
LOGITS_AT_ONCE = 1 << 26  # fp32 numbers, 256 MiB: bounds the positions whose whole vocabulary is in memory


@dataclass(frozen=True)
class TaskSequence:
    """One sequence of a task: ids int64 [L]; payload at `start`..`stop`, the end token at `stop` where there is one.

    lo, hi: int64 [L - start], at each scored position an id of the format lies in [lo, hi) or, in a caption after
    its first token, is the end token.
    """

    task: str
    ids: np.ndarray
    start: int
    lo: np.ndarray
    hi: np.ndarray
    end_id: int

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Scored:
    """What the model gives to the scored ids of one sequence, each float64 [scored].

    nll: -log p over the whole vocabulary, nats. inside: -log p over the segment of the position; for the end token
    that of the whole vocabulary. margin: the best logit among the ids that the format allows there, less the logit of
    the id that stands there; 0 where it is the greedy choice. scale: the largest absolute allowed logit.
    """

    nll: np.ndarray
    inside: np.ndarray
    margin: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Choices:
    """What some positions of one sequence chose from.

    ids: int64 [C], ascending: all that the format allows at some position of the sequence, and those that stand there
        nevertheless.
    start: scored position of the first of the p positions.
    chosen: int64 [p], the column of the id that stands there.
    logits: fp32 [p, C], -inf where the format does not allow the id.
    """

    ids: Tensor
    start: int
    chosen: Tensor
    logits: Tensor


def sequence(space: TokenSpace, task: str, source, target, *, ended: bool = True) -> TaskSequence:
    """The sequence of a task. `source`, `target`: global ids; `ended`: the target's end token is scored as well."""
    words = FORMATS[task] if ended else FORMATS[task][:-1]
    parts = {SOURCE: np.asarray(source, np.int64), TARGET: np.asarray(target, np.int64)}
    pieces = [parts[word] if word in parts else np.array([space.special(word)]) for word in words]
    start = sum(map(len, pieces[: words.index(TARGET)]))
    lo, hi = _segments(space, task, len(parts[TARGET]))
    end_id = space.special(FORMATS[task][-1])
    if ended:
        # Where a picture or sound of a given length ends is no choice; a caption may go on instead.
        text = space.ranges["TEXT"]
        last = (text.start, text.stop) if task in READ_TASKS else (end_id, end_id + 1)
        lo, hi = np.append(lo, last[0]), np.append(hi, last[1])
    return TaskSequence(task, np.concatenate(pieces).astype(np.int64), start, lo, hi, end_id)


def _segments(space: TokenSpace, task: str, n: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last id that may stand at each of `n` payload positions."""
    names, place = {"t2i": ["IMAGE"]}.get(task, ["TEXT"]), np.zeros(n, np.int64)
    if task == "t2a":
        about = space.audio_codec or {}
        names = [f"AUDIO_CB{book}" for book in about.get("row_codebooks") or range(space.n_codebooks)]
        rows = rows_in_order(about.get("serialization"), len(names), n // len(names))
        place = np.resize(rows, n)
    starts, stops = (np.array([getattr(space.ranges[one], key) for one in names]) for key in ("start", "stop"))
    return starts[place], stops[place]


class PlainLM:
    """A base with an adapter's weights in it, as one plain model. Open it with `open`."""

    def __init__(self, causal: nn.Module, head: Sequence[Tensor]):
        self.decoder, self.head = causal.get_decoder(), head
        self.vocab_size = sum(map(len, head))
        self.device = head[0].device

    @classmethod
    @torch.no_grad()
    def open(
        cls,
        base: Path,
        checkpoint: Path,
        space: TokenSpace,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> PlainLM:
        """`base`: folder of the base model. `checkpoint`: folder with adapter_model.safetensors.

        Raises:
            UserError: a tensor of the adapter for which the base has no place.
        """
        from transformers import AutoModelForCausalLM
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        causal = AutoModelForCausalLM.from_pretrained(str(base), dtype=dtype, trust_remote_code=False)
        causal = causal.eval().requires_grad_(False)
        path = Path(checkpoint) / WEIGHTS
        with safe_open(str(path), "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- a handle, no mapping
        meta = read_meta(path)
        modules = dict(causal.named_modules())
        _check_places(tensors, modules, path)
        _add_lora(tensors, modules, meta["lora"]["alpha"] / meta["lora"]["r"])
        _copy_norms(tensors, modules)
        head = with_rows(causal, tensors, space.text_vocab_size, meta["tied"])
        causal.to(device)
        return cls(causal, [part.to(device) for part in head])

    @torch.no_grad()
    def score(
        self, sequences: Sequence[TaskSequence], *, guide: Sequence[TaskSequence] = (), guidance: float = 1.0
    ) -> list[Scored]:
        """The scores of each sequence, in the order given.

        guide: with a guidance g other than 1, the same targets after the empty prompt; then logits are those of
            guide + g * (sequence - guide) (Ho and Salimans 2022).
        """
        hidden = self._mixed(sequences, guide, guidance)
        return [self._scored(states, one) for states, one in zip(hidden, sequences, strict=True)]

    @torch.no_grad()
    def choices(
        self, sequences: Sequence[TaskSequence], *, guide: Sequence[TaskSequence] = (), guidance: float = 1.0
    ) -> Iterator[Iterator[Choices]]:
        """Of each sequence, in the order given, what it chose from; a few positions at once. guide: as in `score`."""
        hidden = self._mixed(sequences, guide, guidance)
        return (self._chosen(states, one) for states, one in zip(hidden, sequences, strict=True))

    def _mixed(self, sequences: Sequence[TaskSequence], guide: Sequence[TaskSequence], guidance: float) -> list[Tensor]:
        hidden = self._hidden(sequences)
        if guidance == 1.0:
            return hidden
        # The head is linear: mixing hidden states is mixing logits.
        return [low + guidance * (one - low) for one, low in zip(hidden, self._hidden(guide), strict=True)]

    def _chosen(self, before: Tensor, one: TaskSequence) -> Iterator[Choices]:
        ends = [one.end_id] * (one.task in READ_TASKS)
        columns = np.union1d(np.arange(one.lo.min(), one.hi.max()), [*ends, *one.ids[one.start :]])
        at = torch.as_tensor(columns, device=self.device)
        for place, wanted in self._pieces(one):
            logits, allowed = self._allowed(before[place : place + len(wanted)], wanted, one, place)
            ids = torch.as_tensor(np.searchsorted(columns, wanted), device=self.device)
            yield Choices(at, place, ids, logits.masked_fill(~allowed, -torch.inf)[:, at])

    def _hidden(self, sequences: Sequence[TaskSequence]) -> list[Tensor]:
        """Of each sequence the states [scored, H] that predict its scored ids: position j - 1 predicts id j."""
        found: dict[int, Tensor] = {}
        for chosen in _alike(sequences):
            ids = torch.as_tensor(np.stack([sequences[i].ids for i in chosen]), device=self.device)
            states = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
            found |= {i: row[sequences[i].start - 1 : -1] for row, i in zip(states, chosen, strict=True)}
        return [found[i] for i in range(len(sequences))]

    def _scored(self, before: Tensor, one: TaskSequence) -> Scored:
        parts = ([tensor.double().cpu().numpy() for tensor in part] for part in self._parts(before, one))
        return Scored(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _parts(self, before: Tensor, one: TaskSequence) -> Iterator[tuple[Tensor, ...]]:
        """The columns of `Scored` on the device, as many positions at once as LOGITS_AT_ONCE allows."""
        for at, wanted in self._pieces(one):
            yield self._part(before[at : at + len(wanted)], wanted, one, at)

    def _pieces(self, one: TaskSequence) -> Iterator[tuple[int, np.ndarray]]:
        """(scored position of the first, scored ids) of each piece."""
        wanted = one.ids[one.start :]
        step = max(1, LOGITS_AT_ONCE // self.vocab_size)
        return ((at, wanted[at : at + step]) for at in range(0, len(wanted), step))

    @torch.no_grad()
    def rehearse(self, sequences: Sequence[TaskSequence]) -> None:
        """What `score` computes on the device, of which nothing is read: tensors without storage will do."""
        for states, one in zip(self._hidden(sequences), sequences, strict=True):
            for _ in self._parts(states, one):
                pass

    def _part(self, hidden: Tensor, wanted: np.ndarray, one: TaskSequence, at: int) -> tuple[Tensor, ...]:
        """The four columns of `Scored` for the ids `wanted`, which begin at scored position `at`."""
        logits, allowed = self._allowed(hidden, wanted, one, at)
        ids = torch.as_tensor(wanted, device=self.device)
        mine = logits.gather(1, ids[:, None])[:, 0]
        nll = logits.logsumexp(-1) - mine
        inside = logits.masked_fill(~self._segment(wanted, one, at), -torch.inf).logsumexp(-1) - mine
        best = logits.masked_fill(~allowed, -torch.inf).max(-1).values
        scale = logits.masked_fill(~allowed, 0.0).abs().max(-1).values
        inside = torch.where(ids == one.end_id, nll, inside)
        return nll, inside, best - mine, scale

    def _allowed(self, hidden: Tensor, wanted: np.ndarray, one: TaskSequence, at: int) -> tuple[Tensor, Tensor]:
        """(logits fp32, which ids the format allows), [positions, V], from scored position `at` on."""
        logits = torch.cat([hidden.float() @ part.float().T for part in self.head], -1)
        allowed = self._segment(wanted, one, at)
        if one.task in READ_TASKS:
            column = torch.arange(self.vocab_size, device=self.device)
            first = torch.arange(at, at + len(wanted), device=self.device) == 0
            allowed |= (column == one.end_id) & ~first[:, None]
        return logits, allowed

    def _segment(self, wanted: np.ndarray, one: TaskSequence, at: int) -> Tensor:
        """Which ids lie in the segment of each position, bool [positions, V]."""
        column = torch.arange(self.vocab_size, device=self.device)
        lo, hi = (torch.as_tensor(array[at : at + len(wanted)], device=self.device) for array in (one.lo, one.hi))
        return (column >= lo[:, None]) & (column < hi[:, None])


def _alike(sequences: Sequence[TaskSequence]) -> Iterator[list[int]]:
    """Places of sequences of one length, at most TOKENS_AT_ONCE ids together."""
    by_length: dict[int, list[int]] = {}
    for i, one in enumerate(sequences):
        by_length.setdefault(len(one), []).append(i)
    for length, places in sorted(by_length.items()):
        step = max(1, TOKENS_AT_ONCE // length)
        yield from (places[at : at + step] for at in range(0, len(places), step))


def _check_places(tensors: dict[str, Tensor], modules: dict[str, nn.Module], where: Path) -> None:
    for key in tensors:
        path = key.removeprefix(PREFIX).removesuffix(ROWS)
        path = path.rsplit(".lora_", 1)[0] if ".lora_" in path else path.removesuffix(".weight")
        if path not in modules:
            raise UserError(
                "the adapter belongs to another base",
                where=f"{where}: {key}",
                found=f"no module {path}",
                fix="open it with the base that it was trained on",
            )


def _add_lora(tensors: dict[str, Tensor], modules: dict[str, nn.Module], scale: float) -> None:
    for key in [key for key in tensors if key.endswith(".lora_A.weight")]:
        name = key.removesuffix(".lora_A.weight")
        module = modules[name.removeprefix(PREFIX)]
        change = scale * (tensors[f"{name}.lora_B.weight"].float() @ tensors[key].float())
        # transformers' Conv1D (GPT-2) keeps its matrix transposed.
        change = change.T if type(module).__name__ == "Conv1D" else change
        module.weight.add_(change.to(module.weight.dtype))


def _copy_norms(tensors: dict[str, Tensor], modules: dict[str, nn.Module]) -> None:
    for key, tensor in tensors.items():
        if ".lora_" not in key and not key.endswith(ROWS):
            module, _, parameter = key.removeprefix(PREFIX).rpartition(".")
            getattr(modules[module], parameter).copy_(tensor)


def with_rows(
    causal: nn.Module, tensors: Mapping[str, Tensor], text_vocab_size: int, tied: bool
) -> tuple[Tensor, Tensor]:
    """Puts the new rows below the base's in the embedding; returns (base rows, new rows fp32) of the head."""
    names = {id(module): name for name, module in causal.named_modules()}
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    # A base matrix may be longer than the text's ids (Qwen3 pads it); the new rows begin behind the last text id.
    base = embedding.weight.detach()[:text_vocab_size]
    rows = tensors[f"{PREFIX}{names[id(embedding)]}{ROWS}"]
    causal.set_input_embeddings(nn.Embedding.from_pretrained(torch.cat([base, rows.to(base.dtype)])))
    if tied:
        return base, rows.float()
    return head.weight.detach()[:text_vocab_size], tensors[f"{PREFIX}{names[id(head)]}{ROWS}"].float()
