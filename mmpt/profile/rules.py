"""Rules between keys of a profile that a schema cannot express."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.model_files import check_model_folder
from mmpt.store.schema import nearest

MOST = 2**53  # whole numbers beyond it are not the same in every reader of JSON


def check_numbers(data: Any, path: Path) -> None:
    """Refuse a number that is not finite, or too large to be carried unchanged into receipts.

    Raises:
        UserError: the first one, with its key.
    """
    for key, value in _numbers(data, ""):
        if isinstance(value, float) and not math.isfinite(value):  # a whole number may be too large for isfinite
            raise UserError("not a finite number", where=f"{path}: {key}", found=value, expected="a number")
        if abs(value) > MOST:
            found = f"{value:.3g}" if isinstance(value, float) else f"{str(value)[:20]}.."
            raise UserError("the number is too large", where=f"{path}: {key}", found=found, expected="at most 2**53")


def _numbers(value: Any, key: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(value, Mapping):
        for name, one in value.items():
            yield from _numbers(one, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for at, one in enumerate(value):
            yield from _numbers(one, f"{key}[{at}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def check_rules(data: Mapping[str, Any], path: Path) -> None:
    """Refuse a profile whose keys contradict each other.

    Raises:
        UserError: the first broken rule, with the keys and values involved.
    """
    names = [source["name"] for source in data["corpus"]["sources"]]
    for name in names:
        if names.count(name) > 1 or name == "corpus":
            raise UserError(
                "two corpus sources share a name, or it is the reserved 'corpus'",
                where=f"{path}: corpus.sources",
                found=name,
                fix="name each source differently",
            )
    if data["split"]["val"] + data["split"]["test"] >= 1:
        raise UserError(
            "val and test leave nothing to train on",
            where=f"{path}: split",
            found=f"{data['split']['val']} + {data['split']['test']}",
            expected="a sum below 1",
        )
    for task in data.get("tasks", ()):
        modality = "audio" if "a" in task else "image"
        if not data["codecs"].get(modality):
            raise UserError(
                "a task of the run without a codec",
                where=f"{path}: tasks",
                found=task,
                fix=f"give codecs.{modality}, or leave {task} out of `tasks`",
            )
        if not data["mixture"]["weights"].get(task):
            raise UserError(
                "a task of the run without a weight",
                where=f"{path}: mixture.weights.{task}",
                found=0,
                fix=f"give it a weight, or leave {task} out of `tasks`",
            )
    if not any(data["mixture"]["weights"].values()):
        raise UserError(
            "every task has weight 0", where=f"{path}: mixture.weights", fix="give at least one task a weight"
        )
    image = data["codecs"].get("image", {})
    if image.get("name") == "patchvq" and image.get("size", 32) % image.get("patch", 4):
        raise UserError(
            "the picture size is no multiple of the patch size",
            where=f"{path}: codecs.image",
            found=f"size {image['size']}, patch {image['patch']}",
        )
    for name, judge in data["evaluate"].get("scores", {}).items():
        if Path(judge["path"]).is_absolute() and not Path(judge["path"]).is_dir():  # known before hours of training
            raise UserError(
                "no such folder",
                where=f"{path}: evaluate.scores.{name}.path",
                found=judge["path"],
                expected="a folder with the model's files, or a hub id",
            )
    if data["train"]["row_len"] < data["examples"]["max_seq_len"]:
        raise UserError(
            "a packed row cannot hold the longest example",
            where=f"{path}: train.row_len",
            found=data["train"]["row_len"],
            expected=f"at least examples.max_seq_len = {data['examples']['max_seq_len']}",
        )
    if data["base"]["kind"] == "tiny":
        _check_heads(data["base"].get("config", {}), path)
    if data["base"]["kind"] == "pretrained" and "path" not in data["base"]:
        raise UserError("missing key 'path'", where=f"{path}: base", expected="a local folder or a hub id")
    _check_targets(data, path)
    if "inputs" in data:
        _check_inputs(data, path)


def _check_heads(config: Mapping[str, Any], path: Path) -> None:
    """Heads of a tiny Qwen3; transformers' own default is 32 of either kind."""
    heads = {key: config.get(key, 32) for key in ("num_attention_heads", "num_key_value_heads")}
    for key, n in heads.items():
        if type(n) is not int or n < 1:
            raise UserError(
                "no number of heads", where=f"{path}: base.config.{key}", found=n, expected="a whole number from 1 up"
            )
    if heads["num_attention_heads"] % heads["num_key_value_heads"]:
        raise UserError(
            "the query heads do not share the key and value heads evenly",
            where=f"{path}: base.config",
            found=", ".join(f"{key} {n}" for key, n in heads.items()),
        )


def _check_targets(data: Mapping[str, Any], path: Path) -> None:
    """A layer that LoRA names must be in the base: a misspelt one would be found hours later, at the warm-up."""
    layers = _layers(data["base"])
    for target in data["lora"]["target_modules"] if layers else ():
        if not any(one == target or one.endswith(f".{target}") for one in layers):
            raise UserError(
                "the base has no such layer",
                where=f"{path}: lora.target_modules",
                found=target,
                fix=nearest(target, {one.rsplit(".", 1)[-1] for one in layers}),
            )
        meant = [one for one in layers if one == target or one.endswith(f".{target}")]
        if all(".experts." in one for one in meant):
            raise UserError(
                "the layers of that name are experts, which transformers keeps in one tensor",
                where=f"{path}: lora.target_modules",
                found=target,
                expected="layers outside of the experts",
                fix="leave it out, as in [q_proj, k_proj, v_proj, o_proj]",
            )


def _layers(base: Mapping[str, Any]) -> set[str]:
    """Names of the base's layers with weights; none where they are not in safetensors on this machine.

    Raises:
        UserError: a file that is damaged, a pointer, or quantised.
    """
    if base["kind"] == "tiny":
        return {f"self_attn.{one}_proj" for one in "qkvo"} | {f"mlp.{one}_proj" for one in ("gate", "up", "down")}
    if "gguf_file" in base or not Path(base["path"]).is_dir():
        return set()
    names = check_model_folder(Path(base["path"]), "base.path")
    return {name.removesuffix(".weight") for name in names if name.endswith(".weight")}


def _check_inputs(data: Mapping[str, Any], path: Path) -> None:
    """Rules of a profile that starts from what a team already has."""
    inputs = data["inputs"]
    if not inputs.get("shards") and not inputs.get("jsonl"):
        raise UserError("no records to import", where=f"{path}: inputs", expected="shards or jsonl")
    if data["base"]["kind"] != "pretrained":
        raise UserError(
            "imported tokens belong to a base model that exists",
            where=f"{path}: base.kind",
            found=data["base"]["kind"],
            expected="pretrained, with path",
        )
