"""Memory and time of a training step, from the model's configuration: no weights are read.

Memory is counted, not guessed: the model is built without storage (device "meta") and run forward as the loop
runs it, and what autograd keeps for the backward pass is added up, PEFT's casts and dropout masks included.
Time is measured on this machine, on one decoder layer, a slice of the head and of the optimizer, and scaled;
for another device it is counted in operations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmpt.model import attention
from mmpt.model.fused_lora import fold_small_layers
from mmpt.model.meta import LOSS_CHUNK
from mmpt.model.multimodal import lora_config
from mmpt.ops import linear_cross_entropy
from mmpt.store.errors import UserError
from mmpt.tokens.space import TokenSpace

ADAM_BYTES = 16  # of a trained fp32 parameter: itself, its gradient, two moments
# Of the head's working set: on a CPU a chunk's logits, their softmax and one product; on CUDA logits and gradients
# share one place.
CHUNK_BYTES = {"cpu": 3 * (64 << 20), "cuda": LOSS_CHUNK}
# Allocators keep blocks that they cannot use at once. CUDA's caches a few percent. glibc's holds what the
# forward pass freed between the kept blocks: 1.2 to 1.8 times the kept bytes were resident here, on models
# of 1 to 135 M.
SLACK = {"cpu": 1.5, "cuda": 1.08}
CONTEXT_BYTES = {"cpu": 0, "cuda": 600 << 20}  # CUDA's own
BORROWED_LAYERS = 4  # of a split base at a time: one in use, the next one coming, each also as it was gathered
TIMED_TOKENS = 2048  # of the layer that is timed, at most
TIMED_ROWS = 256  # supervised tokens of the head that is timed, at most
SUSTAINED = 0.35  # of a GPU's peak: what training reaches

_COUNTED = "counted"


@dataclass(frozen=True)
class ModelSizes:
    """A model to be sized: transformers' configuration as a mapping, LoRA section, token space, dtype."""

    config: Mapping[str, Any]
    lora: Mapping[str, Any]
    space: TokenSpace
    dtype: torch.dtype

    @property
    def hidden(self) -> int:
        return int(self.config["hidden_size"])

    @property
    def layers(self) -> int:
        return int(self.config["num_hidden_layers"])

    @property
    def tied(self) -> bool:
        return bool(self.config.get("tie_word_embeddings", True))

    @property
    def row_parameters(self) -> int:
        """Of the new rows, embedding and an untied head."""
        return self.space.n_new * self.hidden * (1 if self.tied else 2)


@dataclass(frozen=True)
class Size:
    """Parameters. base: frozen ones; lora; rows: new rows. layer_weights: of one decoder layer's matrices."""

    base: int
    lora: int
    rows: int
    layer_weights: int

    @property
    def trained(self) -> int:
        return self.lora + self.rows


def build(shape: ModelSizes, layers: int, device: str, vocabulary: int | None = None) -> nn.Module:
    """A PEFT model of the shape with random weights and `layers` layers; on "meta" it takes no memory.

    vocabulary: rows of the base's matrix, None: the configuration's.
    """
    from peft import get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in shape.config.items() if key != "architectures"}
    if "model_type" not in fields:
        raise UserError("not a model's configuration", where="config.json", expected="model_type")
    fields.pop("layer_types", None)
    fields |= {"num_hidden_layers": layers, "vocab_size": vocabulary or fields["vocab_size"]}
    fields |= dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    config._attn_implementation = "sdpa"
    with torch.device(device):
        causal = AutoModelForCausalLM.from_config(config, dtype=shape.dtype)
        if device == "meta":
            causal.set_attn_implementation(_COUNTED)
        elif attention.can_pack(causal):
            causal.set_attn_implementation(attention.NAME)
        causal.requires_grad_(False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PEFT's, of a name in transformers that is going away
            model = get_peft_model(causal, lora_config(shape.lora, None))
    fold_small_layers(model)
    return model.train()


def sizes(shape: ModelSizes) -> Size:
    """How many parameters of which kind."""
    whole = build(shape, shape.layers, "meta")
    named = dict(whole.named_parameters())
    lora = sum(p.numel() for name, p in named.items() if ".lora_" in name)
    layer = whole.get_base_model().get_decoder().layers[0]
    weights = sum(p.numel() for name, p in layer.named_parameters() if ".lora_" not in name and p.ndim == 2)
    return Size(sum(p.numel() for p in named.values()) - lora, lora, shape.row_parameters, weights)


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps for rows of `row_len` tokens: of each row, and whatever the number of rows
    (weights that LoRA was folded into); in each layer, and once. input_row: of a row, a layer's input alone.
    """

    row_len: int
    layer_row: int
    layer: int
    row: int
    once: int
    input_row: int

    def of(self, layers: int, rows: int, checkpointed: int = 0) -> int:
        """At the end of the forward pass, or while the last of the `checkpointed` layers is computed again,
        when nothing of the layers behind it is left: whatever is more.
        """
        layer = rows * self.layer_row + self.layer
        whole = max((layers - checkpointed) * layer, layer if checkpointed else 0)
        return rows * (self.input_row * checkpointed + self.row) + whole + self.once


def counted_models(shape: ModelSizes) -> tuple[nn.Module, nn.Module]:
    """The shape with one layer and with two, on device meta; building them takes as long as counting."""
    return build(shape, 1, "meta"), build(shape, 2, "meta")


def activations(shape: ModelSizes, row_len: int, models: tuple[nn.Module, nn.Module] | None = None) -> Activations:
    """Counted on models of one and of two layers, with one row and with two.

    models: those of ``counted_models``, where they were built already.
    """
    kept = [[_kept_bytes(model, rows, row_len, shape) for rows in (1, 2)] for model in models or counted_models(shape)]
    one, two = ((2 * first - second, second - first) for first, second in kept)
    (fixed, row), (fixed_2, row_2) = one, two
    states = row_len * shape.hidden * shape.dtype.itemsize
    return Activations(row_len, row_2 - row, fixed_2 - fixed, 2 * row - row_2, 2 * fixed - fixed_2, states)


def _kept_bytes(model: nn.Module, rows: int, row_len: int, shape: ModelSizes) -> int:
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Holding the tensor keeps its key from being used again.
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    embedded = torch.empty(rows, row_len, shape.hidden, device="meta", dtype=shape.dtype, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _run(model, embedded)
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)


def _run(model: nn.Module, embedded: Tensor) -> Tensor:
    """The decoder over rows [B, L, H] that are one sequence each, as training runs it."""
    causal, (rows, row_len, _), device = model.get_base_model(), embedded.shape, embedded.device
    positions = torch.arange(row_len, device=device).expand(rows, -1)
    options: dict[str, Any] = {}
    if attention.can_pack(causal, (attention.NAME, _COUNTED)):
        embedded, positions = embedded.flatten(0, 1)[None], positions.reshape(1, -1)
        options = attention.stream_options((row_len,) * rows, device)
    else:
        mask = torch.ones(row_len, row_len, dtype=torch.bool, device=device).tril()
        options["attention_mask"] = mask.expand(rows, 1, -1, -1).contiguous()
    decoder = causal.get_decoder()
    return decoder(inputs_embeds=embedded, position_ids=positions, use_cache=False, **options).last_hidden_state


class _Attention(torch.autograd.Function):
    """Attention as fused kernels do it: they keep query, key, value, output, mask and a number a query."""

    @staticmethod
    def forward(ctx, query, key, value, mask):
        batch, heads, length, width = query.shape
        out = query.new_empty(batch, length, heads, width).transpose(1, 2)  # as the kernels lay it out
        row_sums = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
        ctx.save_for_backward(query, key, value, out, row_sums, mask)
        return out

    @staticmethod
    def backward(ctx, grad):
        raise NotImplementedError("counting needs no backward pass")


def _counted_attention(module, query, key, value, attention_mask, packed=None, **_):
    """transformers' attention interface: [B, heads, L, D] in, [B, L, heads, D] out."""
    if packed is not None:
        return torch.cat([_Attention.apply(query, key, value, None).transpose(1, 2)]), None
    groups = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
    # A mask of truth values becomes one of numbers, in every layer.
    bias = None if attention_mask is None else attention_mask.to(query.dtype)
    return _Attention.apply(query, key, value, bias).transpose(1, 2).contiguous(), None


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(_COUNTED, _counted_attention)
    AttentionMaskInterface.register(_COUNTED, sdpa_mask)


@dataclass(frozen=True)
class Spread:
    """How many ranks train together, and whether the base's layers are split over them."""

    world: int = 1
    split: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes, of one rank. weights: what it keeps of the frozen base; trained: parameters, gradients and moments;
    kept: activations of a micro-batch; working: the head's chunk, gradients in passing, borrowed layers; context:
    the device's own. look: of the model with which the first rank looks at a checkpoint between two steps, at
    least: its weights; caches for decoding come on top.
    """

    weights: int
    trained: int
    kept: int
    working: int
    context: int
    look: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + max(self.kept + self.working, self.look) + self.context


def memory(
    shape: ModelSizes,
    size: Size,
    kept: Activations,
    micro_rows: int,
    device: str,
    checkpointed: int = 0,
    spread: Spread = Spread(),
) -> Memory:
    """Peak of a training step of `micro_rows` rows at once; `checkpointed` layers recompute their activations."""
    width = shape.dtype.itemsize
    whole, layer = size.base * width, size.layer_weights * width
    away = shape.layers * layer * (spread.world - 1) // spread.world if spread.split else 0
    tokens = kept.row_len * micro_rows
    states = tokens * shape.hidden * width
    # What a batch smaller than a chunk needs.
    logits = (width if device == "cuda" else 3 * 4) * tokens * shape.space.vocab_size_total
    # The rows' gradient is made by the loss, scaled, and added to the one of the embedding.
    working = min(CHUNK_BYTES[device], logits) + 2 * 4 * shape.space.n_new * shape.hidden + 4 * states
    working += 4 * size.trained if spread.world > 1 else 0  # all gradients in a row, to be summed
    working += BORROWED_LAYERS * layer if spread.split else 0
    activations_ = kept.of(shape.layers, micro_rows, checkpointed) + 2 * states
    # On a CPU it is mapped, and shared with the training's own; a split base leaves the look to stage trend.
    look = whole + 4 * size.trained if device == "cuda" and not spread.split else 0
    return Memory(
        whole - away,
        size.trained * ADAM_BYTES,
        round(activations_ * SLACK[device]),
        working,
        CONTEXT_BYTES[device],
        look,
    )


@dataclass(frozen=True)
class Speed:
    """Seconds. token: of forward and backward through all layers; forward: of the forward alone; supervised:
    of a supervised token's head; step: of the optimizer. how: "timed on this machine" or what was assumed.
    """

    token: float
    forward: float
    supervised: float
    step: float
    how: str

    def of(self, tokens: float, supervised: float, checkpointed: float = 0.0) -> float:
        """Seconds of a step over `tokens` tokens; `checkpointed`: share of the layers that are run twice."""
        return tokens * (self.token + checkpointed * self.forward) + supervised * self.supervised + self.step


def counted_speed(shape: ModelSizes, size: Size, row_len: int, tflops: float, how: str) -> Speed:
    """From operations alone: 4 a frozen weight (forward, and the gradient of the input), 6 a trained one; a
    query meets half of its row's keys in the mean.
    """
    width = int(shape.config.get("head_dim") or shape.hidden // shape.config["num_attention_heads"])
    pairs = 6 * row_len * int(shape.config["num_attention_heads"]) * width * shape.layers
    token = 4 * size.layer_weights * shape.layers + 6 * size.lora + pairs
    head = 4 * shape.space.vocab_size_total * shape.hidden + 2 * shape.space.n_new * shape.hidden
    rate = tflops * 1e12
    forward = 2 * size.layer_weights * shape.layers + 2 * size.lora + pairs / 3
    return Speed(token / rate, forward / rate, head / rate, size.trained * 12 / rate, how)


def timed_speed(shape: ModelSizes, size: Size, row_len: int, device: str) -> Speed:
    """From one layer, up to TIMED_ROWS supervised tokens, and a million trained parameters."""
    rows = max(1, TIMED_TOKENS // row_len)
    layer, forward = _layer_seconds(shape, row_len, rows, device)
    head = _head_seconds(shape, min(TIMED_ROWS, row_len), device)
    return Speed(
        layer * shape.layers / (rows * row_len),
        forward * shape.layers / (rows * row_len),
        head / min(TIMED_ROWS, row_len),
        _optimizer_seconds(size.trained, device),
        f"timed on this machine ({device}, {torch.get_num_threads()} threads)",
    )


def _layer_seconds(shape: ModelSizes, row_len: int, rows: int, device: str) -> tuple[float, float]:
    """Of one layer, forward and backward, and forward: half of what three layers take more than one."""
    found, forward = [], []
    for layers in (1, 3):
        model = build(shape, layers, device, vocabulary=8)
        embedded = torch.randn(rows, row_len, shape.hidden, device=device, dtype=shape.dtype)

        def once(model=model, embedded=embedded) -> None:
            _run(model, embedded.detach().requires_grad_()).sum().backward()

        def ahead(model=model, embedded=embedded) -> None:
            _run(model, embedded.detach().requires_grad_())

        found.append(_seconds(once, device))
        forward.append(_seconds(ahead, device))
        del model
    return max((found[1] - found[0]) / 2, 1e-9), max((forward[1] - forward[0]) / 2, 1e-9)


def _head_seconds(shape: ModelSizes, rows: int, device: str) -> float:
    # Small weights: large logits have probabilities that underflow, and arithmetic with those is slow.
    base = 0.02 * torch.randn(shape.space.text_vocab_size, shape.hidden, device=device, dtype=shape.dtype)
    new = (0.02 * torch.randn(shape.space.n_new, shape.hidden, device=device)).requires_grad_()
    hidden = torch.randn(rows, shape.hidden, device=device, dtype=shape.dtype)
    labels = torch.randint(shape.space.vocab_size_total, (rows,), device=device)

    def once() -> None:
        linear_cross_entropy(hidden.detach().requires_grad_(), labels, base, new, reduction="sum").backward()

    return _seconds(once, device)


def _optimizer_seconds(parameters: int, device: str) -> float:
    n = min(parameters, 1 << 20)
    weight = nn.Parameter(torch.randn(n, device=device))
    weight.grad = torch.randn(n, device=device)
    optimizer = torch.optim.AdamW([weight], lr=1e-3, fused=True)
    return _seconds(optimizer.step, device) * parameters / n


def now(device: str) -> float:
    """Seconds, for differences. On a CPU: processor time a thread, as an otherwise idle machine shows it."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def _seconds(action: Callable[[], Any], device: str, repeats: int = 5) -> float:
    """Fastest of some repeats, after one that does not count."""
    action()
    times = []
    for _ in range(repeats):
        began = now(device)
        action()
        times.append(now(device) - began)
    return min(times)


_register()
