"""A base's tokenizer.json as the run uses it: text is text, and nothing is padded or cut.

Control tokens, the base's own and ours, never come out of a caption or a prompt: `<|im_end|>` in a caption is spelled
with ordinary tokens. tokenizers does that for tokens marked special (`encode_special_tokens`); added tokens that are
written like control tokens (`<think>`, `[INST]`) are marked so here. Padding and truncation that a file carries are
switched off, as transformers does at each call.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer

from mmpt.shards.tokenizer_ids import check_tokenizer_ids, refuse_gaps
from mmpt.store.errors import UserError
from mmpt.store.model_files import check_json_file
from mmpt.tokens.exported_names import token_names
from mmpt.tokens.space import TokenSpace

PANIC = "PanicException"  # of pyo3, which does not offer the class
CONTROL = re.compile(r"<[^<>\s]+>|\[[^\[\]\s]+\]")


def open_tokenizer_file(path: Path, where: str = "base.path") -> Tokenizer:
    """The tokenizer, without torch or transformers.

    Raises:
        UserError: no such file, a Git LFS pointer, or one that tokenizers cannot read.
    """
    if not path.is_file():
        raise UserError("no such file", where=path, expected="a fast tokenizer's tokenizer.json")
    check_json_file(path, where)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except BaseException as error:  # tokenizers raises plain Exception, and a panic of Rust is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise UserError(
            "not a tokenizer that tokenizers reads",
            where=f"{where}: {path.name}",
            found=said,
            fix="fetch it again, or save it with a newer transformers",
        ) from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    controls = [token for token in _added(tokenizer) if not token.special and CONTROL.fullmatch(token.content)]
    tokenizer.add_special_tokens([AddedToken(one.content, normalized=False, special=True) for one in controls])
    tokenizer.encode_special_tokens = True
    return tokenizer


def add_names(tokenizer: Tokenizer, space: TokenSpace) -> None:
    """Give every new id of the token space its name in the tokenizer.

    Raises:
        UserError: the ids before have a gap, or one would get another id than the token space gives it.
    """
    refuse_gaps(tokenizer.get_vocab(), "tokenizer.json")
    names = token_names(space)
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    for place, name in enumerate(names, space.new_start):
        if tokenizer.token_to_id(name) != place:
            raise UserError(
                "the base's tokenizer has no room for our ids",
                where="tokenizer.json",
                found=f"{name} is {tokenizer.token_to_id(name)}",
                expected=place,
                fix="its ids below text_vocab_size must be without gaps, and none may bear this name",
            )


def check_tokenizer(path: Path, space: TokenSpace) -> None:
    """Refuse, before anything is trained, a tokenizer that the export could not write or that lets controls through.

    Raises:
        UserError: as `add_names` and `check_tokenizer_ids`; or a control token whose name in a text still becomes its
            id.
    """
    check_tokenizer_ids(path.parent, "base.path")
    tokenizer = open_tokenizer_file(path, "base.path")
    add_names(tokenizer, space)
    codes = set(token_names(space)[space.ranges["SPECIAL"].size : -1])  # thousands alike: the last one stands for them
    for name in [one.content for one in _added(tokenizer) if one.special and one.content not in codes]:
        if (found := tokenizer.token_to_id(name)) in tokenizer.encode(f"a {name} b", add_special_tokens=False).ids:
            raise UserError(
                "the tokenizer makes a control id of a text",
                where=f"base.path: {path.name}",
                found=f"{name!r} in a caption is id {found}",
                expected="ordinary tokens that spell it",
                fix="this base cannot be used: captions could steer it",
            )


def _added(tokenizer: Tokenizer) -> Sequence[AddedToken]:
    return list(tokenizer.get_added_tokens_decoder().values())
