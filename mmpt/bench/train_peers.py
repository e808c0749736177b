"""The contenders of the training benchmark: each takes the same steps over the same items, in its own way.

A contender is a function of a `Task` that makes its model, calls `loaded`, and then trains until `Turn` ends it.
As run: what its users write. Packed: given our rows, in which positions start again at 0 (transformers masks
sequences from each other by that), and the head applied to supervised positions alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmpt.bench.train_items import HALVES, Items, Packed, pad
from mmpt.bench.train_work import LORA, STEP_ITEMS, Workload, open_loader, space_of, start_values
from mmpt.shards.loader import Loader
from mmpt.tokens.formats import IGNORE

STEPS = 100_000  # of our schedule: more than any run takes
PER_DEVICE = 4  # sequences a micro-batch, as run; with 4 micro-batches per step
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Task:
    """What a contender is given.

    base, data, work: folders of the base model, of shards and examples, and for its own files.
    steps: at most this many will be taken. marks: those after which `after` is to be called.
    loaded(): to be called when the model is there, before anything trains.
    first(loss, gradients): what the first step found, the loss a mean over all of its supervised tokens.
    after(step): to be called after those optimizer steps, which are done on the device or not.
    """

    base: Path
    data: Path
    work: Path
    shape: Workload
    dtype: torch.dtype
    device: str
    steps: int
    loaded: Callable[[], None]
    first: Callable[[float, dict[str, Tensor]], None]
    after: Callable[[int], None]
    marks: tuple[int, ...]

    def loader(self) -> Loader:
        return open_loader(self.data, self.shape)


# ---- ours --------------------------------------------------------------------------------------------------------


def ours(task: Task, compiled: bool = False) -> None:
    """mmpt.train as stage 4 calls it, `compiled` with `train.compile`. A first run of one step has the tasks weighed
    by their tokens, so that its objective is the token mean that everybody else minimises.
    """
    from mmpt.model.multimodal import MultimodalLM
    from mmpt.train.loop import Hooks, train
    from mmpt.train.settings import TrainSettings

    model = MultimodalLM.from_base(task.base, space_of(task.shape), LORA, seed=0, dtype=task.dtype, device=task.device)
    if compiled:
        model.compile_layers()
    parameters = model.adapter_parameters()
    rows = {model.row_key(which): which for which in (("embed",) if model.tied else ("embed", "head"))}
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(start_values(rows.get(name, name), tuple(parameter.shape)))
    task.loaded()
    rates = dict.fromkeys(("lora", "embed", "head"), LEARNING_RATE)
    counts, seen = task.loader().batch(0).n_supervised, {}

    def look(step: int) -> dict[str, Any]:
        if step == 1:
            seen.update({rows.get(name, name): _kept(p.grad) for name, p in parameters.items()})
        return {}

    weights = {kind: n / sum(counts.values()) for kind, n in counts.items()}
    settings = TrainSettings(1, rates, log_every=1, task_weights=weights)
    found = train(model, task.loader(), settings, task.work / "first", Hooks(measure=look))
    task.first(found.rows[0]["loss"], seen)
    settings = TrainSettings(STEPS, rates, log_every=10, save_every=STEPS, micro_rows=task.shape.micro_rows)

    def after(step: int) -> dict[str, Any]:
        if step in task.marks:  # the loop measures before its first step too
            task.after(step)
        return {}

    train(model, task.loader(), settings, task.work / "run", Hooks(measure=after, measure_at=task.marks))


def _kept(gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise RuntimeError("a trained parameter has no gradient after the first step")
    return gradient.detach().float().cpu().clone()


# ---- transformers ------------------------------------------------------------------------------------------------


def _causal(task: Task) -> nn.Module:
    """The base grown to the token space, the new rows at their start values."""
    from transformers import AutoModelForCausalLM

    causal: Any = AutoModelForCausalLM.from_pretrained(task.base, dtype=task.dtype, trust_remote_code=False)
    causal = causal.to(task.device)
    space = space_of(task.shape)
    causal.resize_token_embeddings(space.vocab_size_total, mean_resizing=False)
    matrices = {"embed": causal.get_input_embeddings().weight, "head": causal.get_output_embeddings().weight}
    if matrices["embed"] is matrices["head"]:
        del matrices["head"]
    with torch.no_grad():
        for which, matrix in matrices.items():
            matrix[space.new_start :] = start_values(which, (space.n_new, matrix.shape[1])).to(matrix)
    return causal


def _peft(task: Task, **rows: Any) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    lora: dict[str, Any] = {"r": LORA["r"], "lora_alpha": LORA["alpha"], "target_modules": LORA["target_modules"]}
    model = get_peft_model(_causal(task), LoraConfig(task_type="CAUSAL_LM", **lora, **rows))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.copy_(start_values(_plain(name), tuple(parameter.shape)))
    task.loaded()
    return model


def _plain(name: str) -> str:
    """A parameter's name in PEFT's files."""
    return name.replace(".default.", ".").replace(".modules_to_save.default", "")


def token_indices(task: Task) -> nn.Module:
    """PEFT's own way of training some rows; what is tied shares them."""
    space = space_of(task.shape)
    ids = list(range(space.new_start, space.vocab_size_total))
    tied = task.shape.config["tie_word_embeddings"]
    return _peft(task, trainable_token_indices=ids if tied else {"embed_tokens": ids, "lm_head": ids})


def modules_to_save(task: Task) -> nn.Module:
    """Both matrices trained whole; one where they are tied, which the peer asks for by a word."""
    tied = task.shape.config["tie_word_embeddings"]
    return _peft(task, modules_to_save=["embed_tokens", "lm_head"], ensure_weight_tying=tied)


def masked_matrix(task: Task) -> nn.Module:
    """The reference's model: whole matrices ask for gradients, a hook clears those of the old rows."""
    model, start = _peft(task), space_of(task.shape).new_start
    causal = model.get_base_model()
    for module in (causal.get_input_embeddings(), causal.get_output_embeddings()):
        if module.weight.requires_grad:
            continue  # the tied head
        module.weight.requires_grad_(True)
        mask = torch.zeros_like(module.weight)
        mask[start:] = 1
        module.weight.register_hook(lambda gradient, mask=mask: gradient * mask)
    return model


def _gradients(model: nn.Module, start: int) -> dict[str, Tensor]:
    """Of what ours trains too, by the names of `ours`: LoRA by PEFT's names, new rows as embed and head."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if ".lora_" in name:
            found[_plain(name)] = _kept(parameter.grad)
        else:
            which = "head" if "lm_head" in name else "embed"
            gradient = _kept(parameter.grad)
            found[which] = gradient if "trainable_tokens" in name else gradient[start:]
    return found


# ---- the head at supervised positions ----------------------------------------------------------------------------


def dense(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Sum of the losses, all logits at once."""
    return F.cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")


def chunked(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """256 positions at a time, recomputed backward: what TRL does against memory."""
    chunks = zip(hidden.split(256), labels.split(256), strict=True)
    return sum(checkpoint(dense, h, y, weight, use_reentrant=False) for h, y in chunks)


def liger(hidden: Tensor, labels: Tensor, weight: Tensor) -> Tensor:
    """Liger's fused head and loss; on a CPU its only function that runs there."""
    if hidden.is_cuda:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        return liger_fused_linear_cross_entropy(hidden, weight, labels, reduction="sum")
    from liger_kernel.ops import LigerFusedLinearScaledCrossEntropyFunction as scaled

    return scaled.apply(hidden, weight, labels).sum()


Head = Callable[[Tensor, Tensor, Tensor], Tensor]


def supervised(decoder: nn.Module, causal: nn.Module, inputs: dict[str, Tensor], head: Head) -> Tensor:
    """Sum of the losses of packed rows, the head seeing only what predicts a supervised token."""
    hidden = decoder(
        input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
    ).last_hidden_state
    labels = inputs["labels"][:, 1:]
    kept = labels != IGNORE
    weight = causal.get_output_embeddings().weight
    return head(hidden[:, :-1][kept].to(weight.dtype), labels[kept], weight)


def _items(task: Task) -> Items:
    return Items(task.loader(), task.steps)


def _packed(task: Task) -> Packed:
    return Packed(task.loader(), task.steps, task.shape.micro_rows)


# ---- how a contender trains --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Way:
    """A model, and whether it is packed with which head, compiled, or with Liger's own patches."""

    model: Callable[[Task], nn.Module]
    head: Head | None = None
    compiled: bool = False
    liger: bool = False


def with_trainer(task: Task, way: Way) -> None:
    """transformers' Trainer: 4 micro-batches of 4 sequences per step, or our rows in two."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    model, start = way.model(task), space_of(task.shape).new_start
    losses: list[Tensor] = []

    class Told(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0:
                task.first(float(torch.stack(losses).sum()), _gradients(model, start))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step in task.marks:
                task.after(state.global_step)

    causal = model.get_base_model()
    decoder = causal.get_decoder()
    decoder = torch.compile(decoder) if way.compiled and way.head else decoder

    class Ours(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
            loss = super().training_step(*args, **kwargs)
            if self.state.global_step == 0:
                losses.append(loss)
            return loss

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if way.head is None:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            return supervised(decoder, causal, inputs, way.head) / num_items_in_batch

    packed = way.head is not None
    arguments = TrainingArguments(
        output_dir=str(task.work / "trainer"),
        per_device_train_batch_size=1 if packed else PER_DEVICE,
        gradient_accumulation_steps=HALVES if packed else STEP_ITEMS // PER_DEVICE,
        max_steps=task.steps,
        learning_rate=LEARNING_RATE,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        save_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        bf16=task.dtype == torch.bfloat16,
        use_cpu=task.device == "cpu",
        torch_compile=way.compiled and not packed,
        use_liger_kernel=way.liger,
    )
    data, collate = (_packed(task), lambda items: items[0]) if packed else (_items(task), pad)
    Ours(model=model, args=arguments, train_dataset=data, data_collator=collate, callbacks=[Told()]).train()


def as_reference(task: Task, way: Way) -> None:
    """The reference's loop: one sequence at a time with all its logits, the mean of each over 16; AdamW over the
    whole matrices; constant rate, clip 1.0. Packed: our rows and supervised positions instead.

    Its objective weighs a caption's token some twenty times a sound's, so only the loss is compared, as a token mean.
    """
    model = way.model(task)
    causal = model.get_base_model()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.0)
    size = HALVES if way.head else STEP_ITEMS
    data = _packed(task) if way.head else _items(task)
    batches = iter(torch.utils.data.DataLoader(data, batch_size=1, collate_fn=lambda items: items[0]))
    model.train()
    for step in range(1, task.steps + 1):
        total, count = 0.0, 0
        for _ in range(size):
            inputs = {key: value.to(task.device) for key, value in next(batches).items()}
            n = int((inputs["labels"] != IGNORE).sum())
            if way.head:
                loss = supervised(causal.get_decoder(), causal, inputs, way.head) / n
            else:
                loss = model(**{key: value[None] for key, value in inputs.items()}).loss
            (loss / size).backward()
            total, count = total + float(loss.detach()) * n, count + n
        if step == 1:
            task.first(total / count, {})
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in task.marks:
            task.after(step)


Contender = Callable[[Task], None]


def _trainer(*args: Any, **options: Any) -> Contender:
    return lambda task: with_trainer(task, Way(*args, **options))


def _reference(*args: Any) -> Contender:
    return lambda task: as_reference(task, Way(*args))


TOKENS, MODULES, REFERENCE = "Trainer + token indices", "Trainer + modules_to_save", "upstream's manner"
COMPILED = "mmpt, compiled"
CONTENDERS: dict[str, Contender] = {
    "mmpt": ours,
    TOKENS: _trainer(token_indices),
    MODULES: _trainer(modules_to_save),
    REFERENCE: _reference(masked_matrix),
    f"{TOKENS}, packed": _trainer(token_indices, dense),
    f"{TOKENS}, packed, chunked": _trainer(token_indices, chunked),
    f"{TOKENS}, packed, Liger": _trainer(token_indices, liger),
    f"{MODULES}, packed": _trainer(modules_to_save, dense),
    f"{REFERENCE}, packed": _reference(masked_matrix, dense),
}
# What needs a GPU to be worth anything.
CONTENDERS_CUDA: dict[str, Contender] = {
    f"{TOKENS}, Liger": _trainer(token_indices, liger=True),
    f"{TOKENS}, compiled": _trainer(token_indices, compiled=True),
    f"{TOKENS}, packed, compiled": _trainer(token_indices, dense, compiled=True),
    f"{TOKENS}, packed, Liger, compiled": _trainer(token_indices, liger, compiled=True),
}


def contender(name: str) -> Contender:
    """By its name."""
    others: dict[str, Contender] = {COMPILED: partial(ours, compiled=True)}
    return {**CONTENDERS, **CONTENDERS_CUDA, **others}[name]
