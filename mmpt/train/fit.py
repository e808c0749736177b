"""`doit fit`: dropped records, memory and time of a profile before it is trained, and settings that fit better."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmpt.model import qwen3
from mmpt.model.activation_checkpointing import layers_of
from mmpt.profile import Profile, launcher_of
from mmpt.shards.fitting import Choice, Given, Kept, Proposal, Step, keeps, longest_row, mean_step, propose
from mmpt.shards.lengths import AudioShape, Corpus, ImageShape, audio_shape, image_shape, read_corpus
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.model_files import positions
from mmpt.tokens.space import TokenSpace, build_token_space, load
from mmpt.tokens.stream import SERIALIZATIONS
from mmpt.train import footprint
from mmpt.train.distributed import Ranks
from mmpt.train.fit_measure import measure
from mmpt.train.gpus import GPUS
from mmpt.train.objective import rows_at_once

GIB = 1 << 30
USABLE = 0.95  # of a device's memory


@dataclass(frozen=True)
class Device:
    """Where a rank would train. kind: cpu or cuda. memory: for one rank. timed: it is here; else tflops, sustained,
    counts. count: how many ranks, one on each; 0: as the launcher says.
    """

    name: str
    kind: str
    memory: int
    timed: bool
    tflops: float
    count: int = 0


@dataclass(frozen=True)
class Plan:
    """A profile with everything that its sizes follow from."""

    data: Mapping[str, Any]
    corpus: Corpus
    audio: AudioShape | None
    image: ImageShape | None
    shape: footprint.ModelSizes
    size: footprint.Size
    source: str
    spread: footprint.Spread
    counted: dict[int, footprint.Activations]
    timed: dict[int, footprint.Speed]

    def activations(self, row_len: int) -> footprint.Activations:
        """Counted once per row length."""
        if row_len not in self.counted:
            self.counted[row_len] = footprint.activations(self.shape, row_len, self._models)
        return self.counted[row_len]

    @cached_property
    def _models(self) -> tuple[nn.Module, nn.Module]:
        return footprint.counted_models(self.shape)

    def speed(self, row_len: int, device: Device) -> footprint.Speed:
        """Timed, which takes seconds, once per row length; or counted."""
        if device.timed and row_len not in self.timed:
            self.timed[row_len] = footprint.timed_speed(self.shape, self.size, row_len, device.kind)
        if device.timed:
            return self.timed[row_len]
        how = f"counted in operations, {device.tflops:.0f} TFLOP/s sustained assumed"
        return footprint.counted_speed(self.shape, self.size, row_len, device.tflops, how)

    def memory(self, row_len: int, rows: int, device: Device, checkpointed: int = 0) -> footprint.Memory:
        kept = self.activations(row_len)
        return footprint.memory(self.shape, self.size, kept, rows, device.kind, checkpointed, self.spread)

    @property
    def positions(self) -> int | None:
        """How many tokens of one sequence the base was made for, where its configuration says it."""
        return positions(self.shape.config)

    @property
    def noise(self) -> bool:
        """Whether dropout draws anything."""
        own = self.shape.config.get("attention_dropout") or 0.0
        return max(own, self.shape.lora.get("dropout", 0.0)) > 0

    def share(self, row_len: int, rows: int, device: Device, checkpointed: int = 0) -> float:
        """Of the memory that may be used, what is needed: at most 1 fits."""
        return self.memory(row_len, rows, device, checkpointed).total / (USABLE * device.memory)

    def fits(self, row_len: int, rows: int, device: Device, checkpointed: int = 0) -> bool:
        return self.share(row_len, rows, device, checkpointed) <= 1

    def share_of_a_row(self, row_len: int, device: Device) -> float:
        """`share` of one row at a time, with activation checkpointing where it takes that."""
        return min(self.share(row_len, 1, device, checkpointed) for checkpointed in (0, self.shape.layers))


def fit(
    root: Path, profile: Profile, device: Device, steps_to_measure: int = 0, given: Given = Given()
) -> dict[str, Any]:
    """The whole report, plain JSON; see `plan_of` and `report_of`."""
    return report_of(plan_of(root, profile.data, device, given), profile.name, device, steps_to_measure, given)


def report_of(
    plan: Plan, name: str, device: Device, steps_to_measure: int = 0, given: Given = Given()
) -> dict[str, Any]:
    """What a planned profile drops, needs and takes, and what would fit better.

    Args:
        steps_to_measure: also train this number of steps on random ids, to compare the estimates with.
        given: what proposals keep.

    Raises:
        UserError: another device than this machine's is to be measured.
    """
    data, choice = plan.data, choice_of(plan)
    kept = keeps(plan.corpus, plan.audio, plan.image, choice)
    row_len, micro_rows = data["train"]["row_len"], data["train"].get("micro_rows", 0)
    checkpointed = layers_of(data["train"].get("activation_checkpointing", False), plan.shape.layers)
    report: dict[str, Any] = {
        "profile": name,
        "given": asdict(given) if given else None,
        "basis": list(plan.corpus.basis),
        "model": _about(plan),
        "device": asdict(device),
        "ranks": {"kind": _kind(data, plan.spread), **asdict(plan.spread)},
        "tasks": {task: _told(one) for task, one in kept.items()},
        "longest_row": longest_row(partial(plan.share_of_a_row, device=device)),
        "now": None,
        "proposals": [],
        "instead": [],
        "stages": None,
        "measured": None,
    }
    if any(one.kept for one in kept.values()):
        step = _step(plan, kept, row_len)
        report["now"] = _sized(plan, choice, row_len, micro_rows, step, device, checkpointed)
        if steps_to_measure:
            alone = replace(plan, spread=footprint.Spread())
            sized = _sized(alone, choice, row_len, micro_rows, step, device, checkpointed)
            report["measured"] = _measured(alone, kept, sized, device, steps_to_measure)
    plan = _split_where_needed(plan, row_len, device)
    report["proposals"] = _proposals(plan, choice, device, given)
    if given.max_seq_len:  # the length that would keep the sound as it is
        same = Given(None, given.seconds or choice.seconds, given.n_codebooks or choice.n_codebooks)
        longer = [one for one in _proposals(plan, choice, device, same) if one["max_seq_len"] > given.max_seq_len]
        report["instead"] = longer[:1]
    return report


def _proposals(plan: Plan, choice: Choice, device: Device, given: Given) -> list[dict[str, Any]]:
    share = partial(plan.share_of_a_row, device=device)
    found = propose(plan.corpus, plan.audio, plan.image, choice, share, given, plan.positions)
    return [_proposed(plan, one, device) for one in found if one.best < 1]


def plan_of(root: Path, data: Mapping[str, Any], device: Device, given: Given = Given()) -> Plan:
    """Everything that a profile's sizes follow from.

    Args:
        root: artifacts/<profile>; what is built there is used, what is not is assumed.
        given: taken for the profile's own values.

    Raises:
        UserError: a model whose configuration is not to be had, a codec of unknown geometry, no task with
        records, a given length that the codec or the profile does not allow.
    """
    return _plan(root, with_given(data, given), ranks_of(data, device))


def with_given(data: Mapping[str, Any], given: Given) -> dict[str, Any]:
    """A profile's data with what a user gave; rows are at least as long as the longest example.

    Raises:
        UserError: a clip or codebooks without an audio codec, or for imported shards, whose codes are what they are.
    """
    new = copy.deepcopy(dict(data))
    if given.seconds or given.n_codebooks:
        if not new["codecs"].get("audio") or "inputs" in new:
            why = "its shards are imported" if "inputs" in new else "the profile has no audio codec"
            raise UserError("clip and codebooks cannot be chosen", where="codecs.audio", found=why)
        new["codecs"]["audio"]["clip_seconds"] = given.seconds or new["codecs"]["audio"]["clip_seconds"]
        if given.n_codebooks:
            new["codecs"]["audio"]["n_codebooks"] = given.n_codebooks
    if given.max_seq_len:
        new["examples"]["max_seq_len"] = new["train"]["row_len"] = given.max_seq_len
    return new


def as_profile(data: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A profile's data with one of the `proposals` of `report_of`; what a proposal does not say stays as it was."""
    new = copy.deepcopy(dict(data))
    if chosen["clip_seconds"] is not None and "inputs" not in new:
        new["codecs"]["audio"]["clip_seconds"] = chosen["clip_seconds"]
        new["codecs"]["audio"]["n_codebooks"] = chosen["n_codebooks"]
    new["examples"]["max_seq_len"] = chosen["max_seq_len"]
    train = new["train"]
    train |= {"row_len": chosen["row_len"], "micro_rows": chosen["micro_rows"]}
    for section in (train, new["warmup"]):
        section["tokens_per_step"] = max(section["tokens_per_step"], chosen["row_len"])
    if chosen["activation_checkpointing"] or "activation_checkpointing" in train:
        train["activation_checkpointing"] = chosen["activation_checkpointing"]
    if chosen["shard_base"]:
        new["launcher"] = {**new.get("launcher", {}), "shard_base": True}
    return new


def ranks_of(data: Mapping[str, Any], device: Device) -> footprint.Spread:
    """As many as the device says, or the profile's launcher."""
    launcher = launcher_of(data, "train")
    return footprint.Spread(device.count or launcher.processes, launcher.shard_base and launcher.spreads)


def _kind(data: Mapping[str, Any], spread: footprint.Spread) -> str:
    """The profile's launcher, or the one that such ranks would need."""
    kind = launcher_of(data, "train").kind
    return "torchrun" if kind == "local" and spread.world > 1 else kind


def _split_where_needed(plan: Plan, row_len: int, device: Device) -> Plan:
    """With the base split over the ranks, where a rank that keeps all of it cannot hold a row, and one that keeps
    its share could hold a longer one.
    """
    split = replace(plan, spread=replace(plan.spread, split=True))
    if plan.spread.world == 1 or plan.spread.split or plan.share_of_a_row(row_len, device) <= 1:
        return plan
    whole, shared = (longest_row(partial(one.share_of_a_row, device=device)) for one in (plan, split))
    return split if shared > whole else plan


def _told(kept: Kept) -> dict[str, Any]:
    whole = dict(zip(("all", "p99", "p90"), kept.whole, strict=True))
    return {**asdict(kept), "whole": whole, "dropped": kept.dropped}


def device_of(
    profile: Profile, gpu: str | None, memory_gib: float | None, tflops: float | None, count: int | None = None
) -> Device:
    """The profile's device: this machine's, or the one that the options name; `count` of them, each with a rank.

    Raises:
        UserError: an unknown GPU; a profile for CUDA, no CUDA here and no option.
    """
    kind = profile.data["runtime"]["device"]
    ranks = count or launcher_of(profile.data, "train").processes
    if gpu is not None and gpu not in GPUS:
        raise UserError("unknown GPU", where="--gpu", found=gpu, expected=", ".join(GPUS))
    if gpu is None and memory_gib is None and tflops is None:
        if kind == "cuda" and torch.cuda.is_available():
            about = torch.cuda.get_device_properties(0)
            return Device(about.name, kind, about.total_memory, True, 0.0, ranks or torch.cuda.device_count())
        if kind == "cpu":
            return Device("this machine", kind, _memory_available() // ranks, True, 0.0, ranks)
        raise UserError(
            "the profile trains on cuda, and there is none here",
            where="doit fit",
            fix="name the GPU, e.g. --gpu h100, or give --memory-gib and --tflops (sustained)",
        )
    named = GPUS.get(gpu or "")
    if not (gpu or (memory_gib and tflops)):
        raise UserError("half a device", where="doit fit", expected="--gpu, or both --memory-gib and --tflops")
    if not ranks:
        raise UserError(
            "how many GPUs", where="doit fit", expected="a number: the launcher takes them all", fix="--gpus 8"
        )
    return Device(
        gpu or "a device",
        "cuda",
        round((memory_gib or (named.gib if named else 0)) * GIB),
        False,
        tflops or (named.tflops if named else 0.0) * footprint.SUSTAINED,
        ranks,
    )


def _memory_available() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))


def _plan(root: Path, data: Mapping[str, Any], spread: footprint.Spread = footprint.Spread()) -> Plan:
    codecs = data["codecs"]
    audio = audio_shape(codecs.get("audio"), root / "codecs" / "data" / "audio")
    image = image_shape(codecs.get("image"), root / "codecs" / "data" / "image")
    tokenizer = _tokenizer(root, data["base"])
    clip = codecs["audio"]["clip_seconds"] if audio else None
    encode = None if tokenizer is None else (lambda texts: _encoded(tokenizer, texts))
    sources = () if "inputs" in data else data["corpus"]["sources"]
    corpus = read_corpus(root, clip, encode, sources)
    config, source = _config(root, data)
    space = _space(root, data, config, tokenizer, audio, image)
    shape = footprint.ModelSizes(config, data["lora"], space, getattr(torch, data["runtime"]["dtype"]))
    return Plan(data, corpus, audio, image, shape, footprint.sizes(shape), source, spread, {}, {})


def _tokenizer(root: Path, base: Mapping[str, Any]):

    from mmpt.shards.tokenizer_file import open_tokenizer_file

    places = [root / "token_space" / "data" / "tokenizer", Path(base.get("path", ""))]
    found = next((place / "tokenizer.json" for place in places if (place / "tokenizer.json").is_file()), None)
    return open_tokenizer_file(Path(found)) if found else None


def _encoded(tokenizer, texts: list[str]) -> list[int]:
    return [len(one.ids) for one in tokenizer.encode_batch(texts, add_special_tokens=False)]


def _config(root: Path, data: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The model's configuration, and where it was found."""
    from transformers import AutoConfig

    base = data["base"]
    built, path = root / "base" / "data" / "model", str(base.get("path", ""))
    if (built / "config.json").is_file():
        raw, source = read_json(built / "config.json"), "the built base"
    elif base["kind"] == "tiny":
        raw = {"model_type": "qwen3", **base["config"], "vocab_size": data["text"].get("vocab_size", 512)}
        raw |= {"bos_token_id": None, "eos_token_id": None}
        source = "base.config"
    elif (Path(path) / "config.json").is_file():
        raw, source = read_json(Path(path) / "config.json"), f"{Path(path).name}/config.json"
    elif base.get("gguf_file") and (Path(path) / base["gguf_file"]).is_file():
        raw = AutoConfig.from_pretrained(path, gguf_file=base["gguf_file"], trust_remote_code=False).to_dict()
        source = base["gguf_file"]
    elif size := qwen3.named(path):
        raw, source = qwen3.shape(size), f"the published shape of Qwen3-{size}; the weights are not here"
    else:
        raise UserError(
            "the base's configuration is not here",
            where="base.path",
            found=path,
            expected="a folder with config.json, or a name of Qwen3-" + ", -".join(qwen3.SIZES),
        )
    fields = {key: value for key, value in raw.items() if key not in ("architectures", "quantization_config")}
    return AutoConfig.for_model(fields.pop("model_type"), **fields).to_dict(), source


def _space(
    root: Path,
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Any,
    audio: AudioShape | None,
    image: ImageShape | None,
) -> TokenSpace:
    if (root / "token_space" / "data" / "token_space.json").is_file():
        return load(root / "token_space" / "data")
    size = qwen3.TOKENIZER_IDS if config["vocab_size"] == qwen3.MATRIX_ROWS else config["vocab_size"]
    ids = tokenizer.get_vocab_size(with_added_tokens=True) if tokenizer else size
    return build_token_space(
        base_text_model="assumed",
        text_vocab_size=ids,
        n_special=data["token_space"]["n_special"],
        image_tokenizer=None if image is None else {"name": image.name, "codebook_size": image.codebook_size},
        audio_codec=None
        if audio is None
        else {
            "name": audio.name,
            "n_codebooks": audio.n_codebooks,
            "codebook_size": audio.codebook_size,
            "serialization": SERIALIZATIONS[data["codecs"]["audio"].get("order", "frame")],
            **({"row_codebooks": list(audio.kept_rows)} if audio.rows else {}),
        },
    )


def choice_of(plan: Plan) -> Choice:
    """What the plan's profile chooses."""
    data = plan.data
    return Choice(
        data["codecs"]["audio"]["clip_seconds"] if plan.audio else 0.0,
        plan.audio.n_codebooks if plan.audio else 0,
        data["examples"]["max_seq_len"],
        data["examples"].get("max_prompt_tokens"),
    )


def _step(plan: Plan, kept: Mapping[str, Kept], row_len: int) -> Step:
    data = plan.data
    return mean_step(
        kept,
        data["mixture"]["weights"],
        data["mixture"]["text_replay"],
        tokens_per_step=data["train"]["tokens_per_step"],
        row_len=row_len,
        steps=data["train"]["steps"],
        seed=data["seed"],
    )


def _about(plan: Plan) -> dict[str, Any]:
    shape, size = plan.shape, plan.size
    return {
        "name": str(plan.data["base"].get("path", plan.data["base"]["kind"])).rstrip("/").rsplit("/", 1)[-1],
        "source": plan.source,
        "parameters": size.base,
        "trained": {"lora": size.lora, "rows": size.rows},
        "dtype": str(shape.dtype).removeprefix("torch."),
        "vocabulary": shape.space.vocab_size_total,
        "new_ids": shape.space.n_new,
        "tied": shape.tied,
        "positions": plan.positions,
    }


def _sized(
    plan: Plan, choice: Choice, row_len: int, micro_rows: int, step: Step, device: Device, checkpointed: int
) -> dict[str, Any]:
    """One choice with its step, memory and time; `checkpointed`: layers with activation checkpointing."""
    world = plan.spread.world
    at_once = rows_at_once(step.rows_most, micro_rows, plan.noise, world)
    need = plan.memory(row_len, at_once, device, checkpointed)
    speed = plan.speed(row_len, device)
    share = _longest_share(step.tokens, -(-step.rows_most // at_once), row_len * at_once, world)
    seconds = speed.of(step.tokens * share, step.supervised * share, checkpointed / plan.shape.layers)
    return {
        "clip_seconds": choice.seconds if plan.audio else None,
        "n_codebooks": choice.n_codebooks if plan.audio else None,
        "max_seq_len": choice.max_seq_len,
        "row_len": row_len,
        "micro_rows": micro_rows,
        "rows_at_once": at_once,
        "activation_checkpointing": checkpointed,
        "shard_base": plan.spread.split,
        "step": asdict(step),
        "memory": {**asdict(need), "total": need.total},
        "fits": need.total <= USABLE * device.memory,
        "seconds_per_step": seconds,
        "tokens_per_second": step.tokens / seconds,
        "hours": seconds * plan.data["train"]["steps"] / 3600,
        "time_is": speed.how + (", without the ranks' waiting for each other" if world > 1 else ""),
    }


def _longest_share(tokens: float, pieces: int, most: int, world: int) -> float:
    """Share of a step's tokens that the rank with most of them has; packing fills all micro-batches but the last."""
    full = min(most, -(-round(tokens) // max(1, pieces - 1)))
    sizes = [full] * (pieces - 1)
    sizes.append(max(1, round(tokens) - sum(sizes)))
    loads = [sum(sizes[index] for index in Ranks(rank, world).share(sizes)) for rank in range(world)]
    return max(loads) / sum(sizes)


def _proposed(plan: Plan, one: Proposal, device: Device) -> dict[str, Any]:
    """A proposal with as many rows at once as fit, at the profile's tokens per step. Where not even one does,
    as few layers as need be checkpoint their activations.
    """
    audio = plan.audio and replace(plan.audio, n_codebooks=one.choice.n_codebooks)
    plan = replace(plan, audio=audio)
    kept = keeps(plan.corpus, audio, plan.image, one.choice)
    row_len = one.row_len
    step = _step(plan, kept, row_len)
    rows = -(-step.rows_most // plan.spread.world)
    while rows > 1 and not plan.fits(row_len, rows, device):
        rows -= 1
    checkpointed = 0
    while checkpointed < plan.shape.layers and not plan.fits(row_len, rows, device, checkpointed):
        checkpointed += 1
    sized = _sized(plan, one.choice, row_len, rows, step, device, checkpointed)
    return {**sized, "dropped": dict(one.dropped), "cut": one.cut, "lost": one.lost}


def _measured(
    plan: Plan, kept: Mapping[str, Kept], now: Mapping[str, Any], device: Device, steps: int
) -> dict[str, Any]:
    """The same on real steps, and by how much the estimates were off."""
    if not device.timed:
        raise UserError("only this machine's device can be measured", where="doit fit --measure", found=device.name)
    found = measure(plan.shape, plan.data, kept, device.kind, steps)
    estimate = now["memory"]["total"] - now["memory"]["context"]
    return {
        **found,
        "memory_error": estimate / found["memory"] - 1,
        "time_error": now["seconds_per_step"] / found["seconds_per_step"] - 1,
    }
