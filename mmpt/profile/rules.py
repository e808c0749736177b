"""Rules between keys of a profile that a schema cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError


def check_rules(data: Mapping[str, Any], path: Path) -> None:
    """Refuse a profile whose keys contradict each other.

    Raises:
        UserError: the first broken rule, with the keys and values involved.
    """
    names = [source["name"] for source in data["corpus"]["sources"]]
    for name in names:
        if names.count(name) > 1 or name == "corpus":
            raise UserError("two corpus sources share a name, or it is the reserved 'corpus'", where=f"{path}: corpus.sources",
                            found=name, fix="name each source differently")
    if data["split"]["val"] + data["split"]["test"] >= 1:
        raise UserError("val and test leave nothing to train on", where=f"{path}: split",
                        found=f"{data['split']['val']} + {data['split']['test']}", expected="a sum below 1")
    if not any(data["mixture"]["weights"].values()):
        raise UserError("every task has weight 0", where=f"{path}: mixture.weights", fix="give at least one task a weight")
    image = data["codecs"].get("image", {})
    if image.get("name") == "patchvq" and image.get("size", 32) % image.get("patch", 4):
        raise UserError("the picture size is no multiple of the patch size", where=f"{path}: codecs.image",
                        found=f"size {image['size']}, patch {image['patch']}")
    if data["train"]["row_len"] < data["examples"]["max_seq_len"]:
        raise UserError("a packed row cannot hold the longest example", where=f"{path}: train.row_len",
                        found=data["train"]["row_len"], expected=f"at least examples.max_seq_len = {data['examples']['max_seq_len']}")
    if data["base"]["kind"] == "pretrained" and "path" not in data["base"]:
        raise UserError("missing key 'path'", where=f"{path}: base", expected="a local folder or a hub id")
