"""The ids that a base's tokenizer files state, compared with each other without loading a tokenizer.

tokenizers takes the vocabulary's ids from tokenizer.json and numbers added tokens itself, on from the vocabulary's
size, whatever id the file states. transformers then adds every token that another file names and tokenizer.json lacks.
Either way a token gets an id that the base was not trained with, and nothing says so. 151,643 entries take 0.25 s
(2026-11-30).
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmpt.store.errors import UserError
from mmpt.store.model_files import check_json_file
from mmpt.tokens.names import SPECIALS

CONFIGS = ("tokenizer_config.json", "special_tokens_map.json")
ID_FILES = ("added_tokens.json", "vocab.json")  # of older transformers: token -> id
LISTS = ("additional_special_tokens", "extra_special_tokens")


def certain_names(n_special: int, modalities: Collection[str]) -> set[str]:
    """Names of ours that every token space with codecs of these modalities has; their sizes are not known early."""
    names = [*SPECIALS, *(f"unused_{at}" for at in range(len(SPECIALS), n_special))]
    names += ["image_0"] if "image" in modalities else []
    names += ["audio_cb0_0"] if "audio" in modalities else []
    return {f"<|{name}|>" for name in names}


def check_tokenizer_ids(folder: Path, where: str, taken: Collection[str] = (), rows: int | None = None) -> None:
    """Refuse tokenizer files whose ids disagree, have gaps, or leave no room for ours.

    Args:
        folder: with tokenizer.json; tokenizer_config.json and the others where they are.
        where: the profile key that names the folder, for the message.
        taken: names that no token may bear. rows: of the base's embedding, by its config.json.

    Raises:
        UserError: the first disagreement, with file, token and both ids.
    """
    file = _json(folder / "tokenizer.json", where)
    ids = _vocabulary(file, f"{where}: tokenizer.json")
    refuse_gaps(ids, f"{where}: tokenizer.json")
    for token, stated in _added(file, f"{where}: tokenizer.json"):
        given = ids.setdefault(token, len(ids)) if token else None  # tokenizers leaves out one without a text
        if stated != given:
            raise _disagree(f"{where}: tokenizer.json", f"added token {token!r} with id {stated}", given)
    if name := next((name for name in sorted(taken) if name in ids), None):
        raise UserError(
            "the base's tokenizer has no room for our ids",
            where=f"{where}: tokenizer.json",
            found=f"{name} is id {ids[name]}",
            fix="none of its tokens may bear this name: use another base",
        )
    if rows is not None and len(ids) > rows:
        raise UserError(
            "the tokenizer has more ids than the base has rows",
            where=f"{where}: tokenizer.json",
            found=f"{len(ids)} ids",
            expected=f"at most {rows}, vocab_size of config.json",
            fix="fetch the files of one model, or enlarge its embedding and save it again",
        )
    _check_others(folder, ids, where)


def _check_others(folder: Path, ids: Mapping[str, int], where: str) -> None:
    """What the files beside tokenizer.json say of its tokens."""
    for name in (name for name in (*CONFIGS, *ID_FILES) if (folder / name).is_file()):
        file, at = _json(folder / name, where), f"{where}: {name}"
        for token, stated in _stated(file, name, ids):
            if str(stated) != str(ids.get(token)):
                raise _disagree(at, f"{token!r} with id {stated}", ids.get(token))
        for key, token in _named(file) if name in CONFIGS else ():
            if token not in ids:
                raise _disagree(at, f"{key} {token!r}", None)


def _stated(file: Mapping[str, Any], name: str, ids: Mapping[str, int]) -> Iterator[tuple[str, Any]]:
    """(token, id) of a file; vocab.json is not read where tokenizer.json is there, so that it may have more tokens."""
    if name in ID_FILES:
        yield from ((token, stated) for token, stated in file.items() if name != "vocab.json" or token in ids)
        return
    decoder = file.get("added_tokens_decoder")
    for stated, token in decoder.items() if isinstance(decoder, Mapping) else ():
        if (content := _content(token)) is not None:
            yield content, stated


def _named(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(key, token) of every special token that a configuration names."""
    for key, value in config.items():
        if key in LISTS:
            values = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []
        elif key.endswith("_token"):
            values = [value]
        else:
            continue
        yield from ((key, token) for one in values if (token := _content(one)) is not None)


def _content(token: Any) -> str | None:
    """The text of a token that is written plainly or as an object."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _vocabulary(file: Mapping[str, Any], where: str) -> dict[str, int]:
    """Token -> id of the model; Unigram lists [token, score], and the place is the id."""
    model = file.get("model")
    vocab = model.get("vocab") if isinstance(model, Mapping) else None
    if isinstance(vocab, list):
        pieces = [one[0] for one in vocab if isinstance(one, list) and one and isinstance(one[0], str)]
        ids: dict[str, Any] = {piece: at for at, piece in enumerate(pieces)} if len(pieces) == len(vocab) else {}
    else:
        ids = vocab if isinstance(vocab, dict) else {}
    odd = next((name for name, at in ids.items() if type(at) is not int), None)
    if not ids or odd is not None:
        raise UserError(
            "not a tokenizer that tokenizers reads",
            where=where,
            found="no vocabulary" if odd is None else f"{odd!r} with id {ids[odd]!r}",
            fix="fetch it again, or save it with a newer transformers",
        )
    return dict(ids)


def _added(file: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    tokens = file.get("added_tokens") or ()
    for one in tokens if isinstance(tokens, list) else ():
        if isinstance(one, Mapping) and (content := _content(one)) is not None:
            yield content, one.get("id")


def refuse_gaps(ids: Mapping[str, int], where: str) -> None:
    """Refuse ids with holes. tokenizers numbers added tokens on from the count, so a hole moves them onto other ids.

    Args:
        ids: token -> id. where: the file, for the message.

    Raises:
        UserError: the ids are not 0, 1, 2, ..; with the first one that is missing or stands for two tokens.
    """
    places = sorted(ids.values())
    odd = next((at for at, one in enumerate(places) if one != at), None)
    if odd is None:
        return
    raise UserError(
        "the base's tokenizer has no room for our ids",
        where=where,
        found=f"id {odd} is missing" if places[odd] > odd else f"two tokens have id {places[odd]}",
        expected="ids from 0 on, without gaps",
        fix="use a base whose tokenizer numbers its tokens so",
    )


def _disagree(where: str, found: str, given: int | None) -> UserError:
    return UserError(
        "the tokenizer's files disagree about a token",
        where=where,
        found=found,
        expected="a token of tokenizer.json" if given is None else f"id {given}, which it gets from tokenizer.json",
        fix="fetch the files of one model again, or correct this one",
    )


def _json(file: Path, where: str) -> dict[str, Any]:
    """A JSON object of a tokenizer's folder."""
    check_json_file(file, where)
    try:
        found = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        said = str(error).splitlines()[0][:120]
        raise UserError("not JSON", where=f"{where}: {file.name}", found=said, fix="fetch it again") from None
    if not isinstance(found, dict):
        raise UserError("not a JSON object", where=f"{where}: {file.name}", found=type(found).__name__)
    return found
