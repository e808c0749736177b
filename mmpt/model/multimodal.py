"""A Hugging Face causal LM with new vocabulary rows and LoRA: hidden states, logits, the trained parameters.

T is the number of new ids, H the width of a hidden state.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mmpt.model import attention
from mmpt.model.activation_checkpointing import checkpoint_layers
from mmpt.model.adapter import load_adapter, save_adapter
from mmpt.model.compiled import compile_layers
from mmpt.model.fused_lora import fold_small_layers
from mmpt.model.layers import decoder_layers
from mmpt.model.loading import load_causal_lm, map_causal_lm, place, set_aside
from mmpt.model.norms import fuse_norms
from mmpt.model.vocabulary import SegmentedEmbedding, code_rows, initial_rows, quiet_rows
from mmpt.store.errors import UserError
from mmpt.store.schema import nearest
from mmpt.tokens.space import TokenSpace

PARITY = 1e-3  # a head that is a plain matrix product gives the base's own logits to rounding


class MultimodalLM(nn.Module):
    """The model that is trained. `from_base` builds it.

    Attributes:
        space: the token space of its new rows.
        lm: the PEFT model.
        decoder: its transformer, without the head.
        embedding: base rows and new rows.
        head_rows: fp32 [T, H], new rows of an untied head; None: the head is the embedding.
        packs: whether `hidden` takes `lengths`.
        aside: parameter -> value, of decoder matrices that are not loaded yet (`layers_aside` of `from_base`).
    """

    def __init__(self, lm: nn.Module, space: TokenSpace, head_rows: nn.Parameter | None, lora: Mapping[str, Any]):
        super().__init__()
        self.lm, self.space, self.head_rows, self.lora = lm, space, head_rows, dict(lora)
        causal = lm.get_base_model()
        self.decoder: nn.Module = causal.get_decoder()
        self.embedding: SegmentedEmbedding = causal.get_input_embeddings()
        self._head: nn.Parameter = causal.get_output_embeddings().weight
        self.config = causal.config
        self.aside: dict[nn.Parameter, Tensor] = {}
        self._own_mask = not getattr(self.config, "sliding_window", None)
        self.packs = attention.can_pack(causal)
        if self.packs:
            causal.set_attn_implementation(attention.NAME)

    @classmethod
    def from_base(
        cls,
        base: Path | str,
        space: TokenSpace,
        lora: Mapping[str, Any],
        *,
        seed: int,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        layer_norm: bool = False,
        layers_aside: bool = False,
    ) -> MultimodalLM:
        """Load a base model and add new rows and LoRA, both in fp32 and drawn from `seed`.

        Args:
            base: a folder or a hub id.
            lora: r, alpha, dropout, target_modules.
            dtype: of the base's weights and of the hidden states.
            layer_norm: also train the norms' weights.
            layers_aside: leave the decoder layers' matrices in the mapped files, as `aside`, until the base is split
                over ranks; the model cannot run before.

        Raises:
            UserError: no such model; a head or embedding that is not a plain matrix; a vocabulary smaller
                than the token space's text; target modules that the model does not have.
        """
        causal, aside = _loaded(base, space, dtype, device, layers_aside)
        model = cls.around(causal, space, lora, seed=seed, layer_norm=layer_norm)
        model.aside = aside
        return model

    @classmethod
    def around(
        cls, causal: nn.Module, space: TokenSpace, lora: Mapping[str, Any], *, seed: int, layer_norm: bool = False
    ) -> MultimodalLM:
        """Add new rows and LoRA to a causal LM in place: embedding and attention are replaced, its weights frozen.

        Args:
            causal: a model that `check_base` accepts; on device "meta" the result has no storage either.
            lora, seed, layer_norm: as of `from_base`.

        Raises:
            UserError: target modules that the model does not have.
        """
        _check_targets(causal, lora["target_modules"])
        tied = _tied(causal)
        matrix, head = causal.get_input_embeddings().weight, causal.get_output_embeddings().weight
        generator = torch.Generator().manual_seed(seed)
        rows = initial_rows(matrix[: space.text_vocab_size].detach(), space.n_new, generator)
        head_rows = None
        if not tied:
            head_rows = nn.Parameter(initial_rows(head[: space.text_vocab_size].detach(), space.n_new, generator))
        causal.requires_grad_(False)
        causal.set_input_embeddings(SegmentedEmbedding(matrix, rows, space.text_vocab_size))
        config = lora_config(lora, _norm_names(causal) if layer_norm else None)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # PEFT asks transformers by a name that is going away; on a terminal that reads like our mistake.
            warnings.simplefilter("ignore", FutureWarning)
            torch.manual_seed(seed)
            try:
                lm = get_peft_model(causal, config)
            except ValueError as error:
                raise UserError(
                    "cannot attach LoRA", where="lora", found=error, fix="check lora.target_modules"
                ) from None
        fold_small_layers(lm)
        fuse_norms(lm)
        model = cls(lm, space, head_rows, {**dict(lora), "layer_norm": layer_norm})
        model.train_all()
        return model

    @property
    def tied(self) -> bool:
        """Whether the head is the embedding."""
        return self.head_rows is None

    @property
    def dtype(self) -> torch.dtype:
        """Of the base weights and the hidden states."""
        return self.embedding.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        packed: bool | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Tensor:
        """Last hidden states [B, L, H], of the base's dtype.

        Args:
            input_ids: int64 [B, L].
            position_ids: int64 [B, L]. Without cache and mask, a position of 0 starts a new sequence, and tokens attend
                within their sequence only.
            attention_mask: [B, L] of 0/1, or [B, 1, L, K] bool or additive, as Hugging Face models take it.
            past_key_values: a cache of transformers, which is then used and extended.
            packed: whether a row holds several sequences; None: read from position_ids, which waits for the device.
            lengths: of the sequences of one stream: B = 1, they add up to L. The fastest way for rows without padding.
        """
        if lengths is not None:
            options = attention.stream_options(lengths, input_ids.device)
            return self.decoder(
                input_ids=input_ids, position_ids=position_ids, use_cache=False, **options
            ).last_hidden_state
        plain = attention_mask is None and past_key_values is None
        if plain and self._own_mask and position_ids is not None:
            if packed is None:
                packed = bool((position_ids[:, 1:] == 0).any())
            if packed:
                attention_mask = packed_mask(position_ids)
        return self.decoder(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=attention_mask,
            **attention.cached(self.decoder, past_key_values),
        ).last_hidden_state

    def head(self) -> tuple[Tensor, Tensor]:
        """(base rows [text_vocab_size, H], new rows fp32 [T, H]) of the output matrix."""
        new = self.embedding.rows if self.head_rows is None else self.head_rows
        return self._head[: self.space.text_vocab_size], new

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits fp32 [..., vocab_size_total] of hidden states [..., H]."""
        return torch.cat([(hidden.to(rows.dtype) @ rows.T).float() for rows in self.head()], -1)

    def checkpoint_layers(self, count: bool | int) -> None:
        """Turn on activation checkpointing in training for the first `count` decoder layers; True: for all."""
        checkpoint_layers(self.lm.get_base_model(), count)

    def compile_layers(self, backend: str = "inductor") -> None:
        """Put the decoder layers through torch.compile in training steps (`mmpt.model.compiled`).

        Raises:
            UserError: the base does not take sequences as one stream, or there is no compiler.
        """
        if not self.packs:
            raise UserError(
                "only a base that takes packed streams is compiled",
                where="train.compile",
                found=type(self.lm.get_base_model()).__name__,
                fix="leave the key out",
            )
        compile_layers(self.lm.get_base_model(), backend)

    def trainable_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """(name in PEFT's format, parameter) by learning-rate group: lora, embed, head, layer_norm."""
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in self.adapter_parameters().items():
            groups.setdefault(self.group_of(name), []).append((name, parameter))
        return {group: members for group in GROUPS if (members := groups.get(group))}

    def adapter_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters added to the base, by their key in PEFT's file format, in a fixed order."""
        out: dict[str, nn.Parameter] = {}
        for name, parameter in self.lm.named_parameters():
            if ".lora_" in name or ".modules_to_save." in name:
                out[name.replace(".modules_to_save.default.", ".").replace(".default.", ".")] = parameter
        out[self.row_key("embed")] = self.embedding.rows
        if self.head_rows is not None:
            out[self.row_key("head")] = self.head_rows
        return out

    def row_key(self, which: str) -> str:
        """Key of the new rows ("embed" or "head") in PEFT's file format."""
        return f"base_model.model.{self.row_module(which)}.token_adapter.trainable_tokens_delta"

    def row_module(self, which: str) -> str:
        """Module path of the embedding or the head inside the base model, e.g. model.embed_tokens."""
        causal = self.lm.get_base_model()
        wanted = self.embedding if which == "embed" else causal.get_output_embeddings()
        return next(name for name, module in causal.named_modules() if module is wanted)

    def frozen(self) -> dict[str, Tensor]:
        """The base's weights by name; training changes none of them."""
        added = {id(parameter) for parameter in self.adapter_parameters().values()}
        return {name: p for name, p in self.named_parameters() if id(p) not in added}

    def train_all(self) -> None:
        """Train new rows, LoRA and, with `layer_norm`, the norms."""
        for parameter in self.adapter_parameters().values():
            parameter.requires_grad_(True)

    def train_rows_only(self) -> None:
        """Train the new rows only, as the warm-up does."""
        for name, parameter in self.adapter_parameters().items():
            parameter.requires_grad_(self.group_of(name) in ("embed", "head"))

    def group_of(self, key: str) -> str:
        """Learning-rate group of an adapter key."""
        if ".lora_" in key:
            return "lora"
        if key == self.row_key("embed"):
            return "embed"
        return "head" if self.head_rows is not None and key == self.row_key("head") else "layer_norm"

    @torch.no_grad()
    def start_rows_from_codes(self, vectors: Mapping[str, Tensor], *, seed: int) -> None:
        """Replace the initial rows of whole ranges by rows made from the codec's code vectors (`code_rows`).

        Args:
            vectors: range name (IMAGE, AUDIO_CB0, ..) -> [size of the range, D].
        """
        generator = torch.Generator().manual_seed(seed)
        heads = [(self.embedding.rows, self.embedding.weight)]
        heads += [] if self.head_rows is None else [(self.head_rows, self._head)]
        for rows, base in heads:
            for name in sorted(vectors):
                start = self.space.ranges[name].start - self.space.new_start
                made = code_rows(vectors[name], base[: self.space.text_vocab_size].detach(), generator)
                rows[start : start + len(made)] = made.to(rows.device)

    @torch.no_grad()
    def start_rows_quietly(self, *, seed: int) -> None:
        """Replace the initial rows of the head, which a tied model shares with the embedding, by `quiet_rows`."""
        rows = self.embedding.rows if self.head_rows is None else self.head_rows
        generator = torch.Generator().manual_seed(seed)
        base = self._head[: self.space.text_vocab_size].detach()
        rows.copy_(quiet_rows(base, len(rows), generator))

    @contextlib.contextmanager
    def merged(self, restore: bool = True) -> Iterator[None]:
        """Inside the block LoRA is merged into the base weights, for decoding; then they are restored bit for bit.

        Args:
            restore: False saves a copy of the base's matrices; the model cannot be used after the block.
        """
        layers = [module for module in self.lm.modules() if isinstance(module, LoraLayer) and not module.merged]
        kept = [layer.get_base_layer().weight.detach().clone() for layer in layers if restore]
        for layer in layers:
            layer.merge()
        try:
            yield
        finally:
            for layer, weight in zip(layers if restore else [], kept, strict=True):
                layer.merged_adapters.clear()
                layer.get_base_layer().weight.data.copy_(weight)

    def save_adapter(self, folder: Path) -> None:
        """Write adapter_model.safetensors and adapter_config.json as PEFT does (`mmpt.model.adapter`)."""
        save_adapter(self, folder)

    def load_adapter(self, folder: Path) -> None:
        """Read what `save_adapter` wrote. Raises UserError if it was made for another token space or LoRA."""
        load_adapter(self, folder)

    @property
    def tokenizer(self) -> Any:
        """The base folder's tokenizer."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.config._name_or_path, trust_remote_code=False)


GROUPS = ("lora", "embed", "head", "layer_norm")


def packed_mask(position_ids: Tensor) -> Tensor:
    """bool [B, 1, L, L], causal within each sequence, of position_ids int64 [B, L]; each 0 starts a sequence."""
    sequence = (position_ids == 0).cumsum(1)
    length = position_ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=position_ids.device).tril()
    return ((sequence[:, :, None] == sequence[:, None, :]) & causal)[:, None]


def _loaded(
    base: Path | str, space: TokenSpace, dtype: torch.dtype, device: str, layers_aside: bool
) -> tuple[nn.Module, dict[nn.Parameter, Tensor]]:
    """The validated base on `device`, and its deferred weights."""
    if device == "cpu" and not layers_aside:
        causal = load_causal_lm(base, dtype)
        check_base(causal, space, base)
        return causal, {}
    causal = map_causal_lm(base, dtype)
    if layers_aside:
        check_base(causal, space, base)
        aside = set_aside(causal, dtype)
        place(causal, device, dtype, without=aside)
        return causal, aside
    place(causal, device, dtype)
    check_base(causal, space, base)
    return causal, {}


def lora_config(lora: Mapping[str, Any], norms: list[str] | None) -> LoraConfig:
    """PEFT's configuration of a profile's `lora`; `norms`: last components of modules that are trained whole."""
    return LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora.get("dropout", 0.0),
        target_modules=list(lora["target_modules"]),
        modules_to_save=norms,
        task_type="CAUSAL_LM",
    )


def probe_lora(causal: nn.Module) -> dict[str, Any]:
    """A `lora` section that fits any base: rank 1 on the first linear layer of its blocks. B is zero, so it changes no
    output.

    Raises:
        UserError: the base has no linear layer in its blocks.
    """
    linear = (nn.Linear, Conv1D)
    for layer in decoder_layers(causal):
        for path, module in layer.named_modules():
            if isinstance(module, linear):
                return {"r": 1, "alpha": 1, "dropout": 0.0, "target_modules": [path.rsplit(".", 1)[-1]]}
    raise UserError("no linear layer for LoRA", where="base", found=type(causal).__name__)


def is_target(path: str, target: str) -> bool:
    """Whether PEFT takes the module at `path` for the target module `target`."""
    return path == target or path.endswith(f".{target}")


def _check_targets(causal: nn.Module, targets: Iterable[str]) -> None:
    """Raise UserError for a target module that the base lacks. PEFT ignores a misspelt one beside others."""
    paths = [path for path, module in causal.named_modules() if getattr(module, "weight", None) is not None]
    for target in targets:
        if not any(is_target(path, target) for path in paths):
            raise UserError(
                "the base has no such layer",
                where="lora.target_modules",
                found=target,
                fix=nearest(target, {path.rsplit(".", 1)[-1] for path in paths}),
            )


def _norm_names(causal: nn.Module) -> list[str]:
    """Last path component of every normalisation layer."""
    found = {
        name.rsplit(".", 1)[-1] for name, module in causal.named_modules() if "norm" in type(module).__name__.lower()
    }
    return sorted(found)


def _tied(causal: nn.Module) -> bool:
    return causal.get_output_embeddings().weight is causal.get_input_embeddings().weight


def check_base(causal: nn.Module, space: TokenSpace, where: object) -> None:
    """Raise UserError unless embedding and head are plain matrices with a row for every text id."""
    embedding, head = causal.get_input_embeddings(), causal.get_output_embeddings()
    if type(embedding) is not nn.Embedding:
        raise UserError(
            "unsupported embedding",
            where=where,
            found=type(embedding).__name__,
            expected="a plain nn.Embedding",
        )
    if head is None or getattr(head, "bias", None) is not None:
        raise UserError("unsupported head", where=where, found=head, expected="a linear layer without bias")
    if embedding.num_embeddings < space.text_vocab_size:
        raise UserError(
            "the base model does not belong to this token space",
            where=where,
            found=f"{embedding.num_embeddings} embedding rows",
            expected=f"at least text_vocab_size = {space.text_vocab_size}",
        )
    ids = torch.arange(4, device=embedding.weight.device)[None] % space.text_vocab_size
    with torch.no_grad():
        logits = causal(input_ids=ids, use_cache=False).logits
        # Not through output_hidden_states: that leaves hooks in the layers, which cannot be compiled.
        plain = causal.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state @ head.weight.T
    if not torch.allclose(logits.float(), plain.float(), rtol=PARITY, atol=PARITY * float(plain.abs().max())):
        raise UserError(
            "the head does more than a matrix product (logit scaling or capping)",
            where=where,
            found=f"logits differ by {float((logits - plain).abs().max()):.3g}",
            expected="logits = hidden @ weight.T",
        )
