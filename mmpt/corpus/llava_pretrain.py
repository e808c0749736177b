"""Reader `llava_pretrain`: LLaVA-Pretrain as published (liuhaotian/LLaVA-Pretrain), one caption per picture.

    blip_laion_cc_sbu_558k.json    [{"id": "004539375", "image": "00453/004539375.jpg", "conversations": [
                                     {"from": "human", "value": "Describe the image.\n<image>"},
                                     {"from": "gpt", "value": "a caption"}]}]
    images.zip, unpacked           00453/004539375.jpg, beside the JSON file or in images/

The human turn is a way to ask and stands in no record; its placeholder must be there once, and never in the
caption. There is no official split; a picture's origin is its file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.codecs.media import MediaError, inside, is_file
from mmpt.corpus.media_folder import ARCHIVES
from mmpt.corpus.problems import Problem
from mmpt.corpus.published import Entry, need_file, read_json_file, to_records
from mmpt.corpus.tables import short
from mmpt.store.errors import UserError

FILE = "blip_laion_cc_sbu_558k.json"
PLACEHOLDER = "<image>"
LICENSE = "LAION, CC-3M and SBU, by picture"
FOLDERS = (".", "images")


def read(folder: Path, source: Mapping[str, Any]) -> Iterator[tuple[str, dict | Problem]]:
    """(where, record or problem): one record an item, `llava_pretrain:<id>`.

    Raises:
        UserError: no JSON file or a damaged one, no picture at all.
    """
    name = source["name"]
    file = need_file(folder, source.get("file", FILE), source.get("metadata", "."), name)
    where = f"{name}/{file.name}"
    items = read_json_file(file, where)
    if not isinstance(items, list):
        raise UserError("not a list", where=where, expected='[{"id", "image", "conversations"}, ..]')
    below = [source["media"]] if "media" in source else FOLDERS
    entries = [_entry(item, f"{where}[{at}]", folder, below, source) for at, item in enumerate(items)]
    return to_records(entries, name, {"pictures": _packed(folder)}, source.get("limit"))


def _entry(item: Any, where: str, folder: Path, below: Any, source: Mapping[str, Any]) -> Entry:
    part = "pictures"
    fields = item if isinstance(item, dict) else {}
    number, picture = fields.get("id"), fields.get("image")
    if not isinstance(number, (str, int)) or not isinstance(picture, str) or not picture.strip():
        fault = (
            "bad_line",
            "item without id or image",
            str(item)[:60],
            "id, image, conversations",
            "remove it",
        )
        return Entry(where, part, fault=fault)
    identity = f"llava_pretrain:{number}"
    try:
        paths = [
            one for one in (f"{sub}/{picture}".removeprefix("./") for sub in below) if is_file(inside(folder, one))
        ]
    except MediaError as error:
        fault = (error.kind, error.what, str(error.found), str(error.expected), error.fix)
        return Entry(where, part, id=identity, fault=fault)
    caption, missing = _caption(fields.get("conversations"))
    return Entry(
        where,
        part,
        id=identity,
        modality="image",
        medium=picture,
        found=paths,
        caption=caption,
        origin=f"llava_pretrain:{picture}",
        source="llava_pretrain",
        license=source.get("license", LICENSE),
        fault=missing,
    )


def _caption(turns: Any) -> tuple[str, tuple[str, str, str, str, str] | None]:
    """(the answer, None), or ("", what is wrong with the conversation)."""
    expected = f"one human turn with {PLACEHOLDER} once, then one gpt turn with the caption"

    def bad(what: str, found: object) -> tuple[str, tuple[str, str, str, str, str]]:
        return "", ("bad_line", what, str(found)[:60], expected, "correct or remove the item")

    if not isinstance(turns, list) or not all(
        isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns
    ):
        return bad("not a conversation", turns)
    speakers = [turn.get("from") for turn in turns]
    if speakers != ["human", "gpt"]:
        return bad("not one question and one answer", speakers)
    question, answer = (turn["value"] for turn in turns)
    if question.count(PLACEHOLDER) != 1:
        return bad("the question does not hold the placeholder once", repr(question))
    if PLACEHOLDER in answer:
        return bad("the caption holds the placeholder", repr(answer))
    return answer, None


def _packed(folder: Path) -> str:
    """Archives beside the JSON file; the pictures themselves are too many to walk for a message."""
    names = (path.name for path in folder.iterdir() if path.suffix.lower() in ARCHIVES)
    return ", ".join(sorted(map(short, names))[:3])
