"""Model, batches and settings of warm-up and Stage 4, from the profile and the inputs of a stage.

Profile keys: warmup, lora, mixture, examples.max_seq_len, train.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mmpt.codecs.registry import CODE_VECTORS
from mmpt.model.multimodal import MultimodalLM
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.loader import Loader, Source, make_loader
from mmpt.shards.text_set import TextSet
from mmpt.store.errors import UserError
from mmpt.store.model_files import check_positions
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITY_OF, READ_TASKS
from mmpt.store.tensors import load_tensors
from mmpt.tokens.space import TokenSpace, load
from mmpt.train.distributed import Ranks
from mmpt.train.settings import TrainSettings, step_options
from mmpt.train.sharding import shard_base

REPLAY_TOKENS = 128  # of one sequence of replayed text
WARMUP_SAVE_EVERY = 500


@dataclass(frozen=True)
class Prepared:
    """A model, batches and settings, ready to train."""

    model: MultimodalLM
    loader: Loader
    settings: TrainSettings


def prepare_warmup(ctx: StageContext, *, layers_aside: bool = False) -> Prepared:
    """Base with fresh rows, read tasks only; layers_aside: of `from_base`. Only the rows are trainable, unless
    `warmup.lora` gives LoRA a rate: then the mixture's share of plain text preserves the text model.
    """
    space, profile = load(ctx.inputs["token_space"]), ctx.profile
    steps, lr, lora = profile["warmup.steps"], profile["warmup.lr"], profile.get("warmup.lora")
    model = _model(ctx, space, layers_aside)
    init = profile.get("warmup.init", "random")
    if init == "codec":
        model.start_rows_from_codes(_code_vectors(ctx.inputs["codecs"], space), seed=ctx.seed)
    elif init == "quiet":
        model.start_rows_quietly(seed=ctx.seed)
    if lora is None:
        model.train_rows_only()
    weights = {task: profile["mixture.weights"].get(task, 0) for task in READ_TASKS}
    replay = profile["mixture.text_replay"] if lora is not None else 0.0
    loader = make_loader(
        _with_text(ctx, space, example_sets(ctx, space, weights), replay),
        weights=_present(space, weights),
        text_replay=replay,
        ramp=0.0,
        steps=max(steps, 1),
        tokens_per_step=profile["warmup.tokens_per_step"],
        row_len=profile["train.row_len"],
        pad_id=space.special("pad_mm"),
        prompt_dropout=0.0,
        seed=ctx.seed,
    )
    settings = TrainSettings(
        steps,
        {"lora": lora or lr, "embed": lr, "head": lr},
        warmup_steps=min(profile["train.warmup_steps"], steps // 5),
        save_every=WARMUP_SAVE_EVERY,
        micro_rows=profile.get("train.micro_rows", 0),
        seed=ctx.seed,
        **step_options(profile),
    )
    return Prepared(model, loader, settings)


def prepare_train(ctx: StageContext, *, layers_aside: bool = False) -> Prepared:
    """The model after warm-up, rows and LoRA trainable, and the whole mixture. layers_aside: of `from_base`."""
    space, profile = load(ctx.inputs["token_space"]), ctx.profile
    model = _model(ctx, space, layers_aside)
    model.load_adapter(ctx.inputs["warmup"] / "checkpoint")
    weights, replay = dict(profile["mixture.weights"]), profile["mixture.text_replay"]
    steps, ramp = profile["train.steps"], profile["mixture.ramp"]
    loader = make_loader(
        _with_text(ctx, space, example_sets(ctx, space, weights), replay),
        weights=_present(space, weights),
        text_replay=replay,
        ramp=ramp,
        steps=steps,
        tokens_per_step=profile["train.tokens_per_step"],
        row_len=profile["train.row_len"],
        pad_id=space.special("pad_mm"),
        prompt_dropout=profile["mixture.prompt_dropout"],
        seed=ctx.seed,
    )
    settings = TrainSettings(
        steps,
        dict(profile["train.lr"]),
        warmup_steps=profile["train.warmup_steps"],
        save_every=profile["train.save_every"],
        monitor_from=max(profile["train.warmup_steps"], ramp_end(loader)),
        micro_rows=profile.get("train.micro_rows", 0),
        seed=ctx.seed,
        **step_options(profile),
    )
    return Prepared(model, loader, settings)


def ramp_end(loader: Loader) -> int:
    """First step with the mixture's full weights."""
    return loader.mixture.ramp_start + loader.mixture.ramp_steps


def prepare_rank(ctx: StageContext, prepare: Callable[..., Prepared], ranks: Ranks) -> Prepared:
    """A rank's part: with `shard_base`, its share of the base's layers."""
    if not ctx.launcher.shard_base:
        return prepare(ctx)
    ready = prepare(replace(ctx, device="cpu"), layers_aside=True)
    shard_base(ready.model, ranks, ctx.device)
    return ready


def _model(ctx: StageContext, space: TokenSpace, layers_aside: bool = False) -> MultimodalLM:
    model = MultimodalLM.from_base(
        ctx.inputs["base"] / "model",
        space,
        ctx.profile["lora"],
        seed=ctx.seed,
        dtype=getattr(torch, ctx.dtype),
        device=ctx.device,
        layer_norm=ctx.profile.get("train.layer_norm", False),
        layers_aside=layers_aside,
    )
    check_positions(model.config.to_dict(), ctx.profile.get("examples.max_seq_len", 0))
    model.checkpoint_layers(ctx.profile.get("train.activation_checkpointing", False))
    if ctx.profile.get("train.compile", False):
        model.compile_layers()
    return model


def _code_vectors(codecs: Path, space: TokenSpace) -> dict[str, torch.Tensor]:
    """Range name -> code vectors [size, D], of the codecs that have some.

    Raises:
        UserError: none of the codecs has code vectors.
    """
    names = {"image": ["IMAGE"], "audio": [f"AUDIO_CB{index}" for index in range(space.n_codebooks)]}
    found: dict[str, torch.Tensor] = {}
    for modality, ranges in names.items():
        path = codecs / modality / CODE_VECTORS
        if path.is_file():
            found |= dict(zip(ranges, load_tensors(path, "torch")["vectors"], strict=True))
    if not found:
        raise UserError(
            "no codec of this run offers code vectors",
            where="warmup.init",
            found="codec",
            fix="set warmup.init: random",
        )
    return found


def _present(space: TokenSpace, weights: dict[str, float]) -> dict[str, float]:
    """Weights of the tasks whose modality the token space has."""
    there = {"image": space.image_range is not None, "audio": bool(space.audio_ranges)}
    return {task: weight for task, weight in weights.items() if there[MODALITY_OF[task]]}


def example_sets(
    ctx: StageContext, space: TokenSpace, weights: dict[str, float], split: str = "train"
) -> dict[str, ExampleSet]:
    wanted = [task for task, weight in _present(space, weights).items() if weight > 0]
    return {task: ExampleSet.open(ctx.inputs["examples"], ctx.inputs["shards"], space, task, split) for task in wanted}


def _with_text(
    ctx: StageContext, space: TokenSpace, sources: Mapping[str, ExampleSet], replay: float
) -> dict[str, Source]:
    """The sources, with plain text beside them where it has a share."""
    if replay <= 0:
        return dict(sources)
    length = min(REPLAY_TOKENS, ctx.profile["train.row_len"])
    folder = ctx.inputs["token_space"]
    return {**sources, "text": TextSet.open(folder / "text_train.txt", folder, space, length)}
