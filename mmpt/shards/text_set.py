"""Plain text as token sequences: for replay in the mixture, and for training and measuring on text."""

from __future__ import annotations

import hashlib
import io
from array import array
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from mmpt.shards.tokenizer_file import open_tokenizer_file
from mmpt.store.errors import UserError
from mmpt.store.text_files import not_utf8, refuse_other_files
from mmpt.tokens.formats import Example, build_text
from mmpt.tokens.space import TokenSpace

_ENCODED = 1024  # texts tokenised at once


def open_tokenizer(token_space: Path) -> Tokenizer:
    """The tokenizer of a token_space folder, without torch or transformers.

    Raises:
        UserError: the folder has no tokenizer/tokenizer.json.
    """
    return open_tokenizer_file(Path(token_space) / "tokenizer" / "tokenizer.json", where="token_space")


def encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """The ids of each text. A tokenizer's own record of a text is a hundred times its ids: few are held at once."""
    remaining = iter(texts)
    while chunk := list(islice(remaining, _ENCODED)):
        yield from (one.ids for one in tokenizer.encode_batch(chunk, add_special_tokens=False))


def read_lines(path: Path, where: object = "") -> list[str]:
    """Non-empty lines of a UTF-8 text file, stripped; a byte order mark at its start is no part of the first.

    Lines end at a line feed or carriage return alone: U+2028 and 0x85 are characters of a text.

    Raises:
        UserError: bytes that are not UTF-8, or a compressed file.  FileNotFoundError: no such file.
    """
    data = Path(path).read_bytes()
    refuse_other_files(data, where or path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise not_utf8(error, where or path) from None
    return [line.strip() for line in io.StringIO(text, newline=None) if line.strip()]


def encode_lines(path: Path, tokenizer: Tokenizer, space: TokenSpace) -> np.ndarray:
    """int32: a UTF-8 text file as one stream of text ids, every non-empty line ended by a newline's token.

    Raises:
        UserError: missing file, or a tokenizer whose ids leave the TEXT segment.
    """
    try:
        lines = [line + "\n" for line in read_lines(path)]
    except FileNotFoundError as error:
        raise UserError("cannot read this text", where=path, found=error) from None
    ids = array("i")
    for one in encoded(tokenizer, lines):
        ids.extend(one)
    return space.check_text(np.frombuffer(ids, np.int32))


class TextSet:
    """A stream of text ids cut into sequences of ``length`` tokens; a last piece of one token is left out."""

    has_prompt = False

    def __init__(self, ids: np.ndarray, space: TokenSpace, length: int):
        if length < 2:
            raise UserError("text sequences are too short to supervise", found=length, expected="at least 2 tokens")
        self.space, self.ids = space, np.asarray(ids, np.int32)
        starts = np.arange(0, len(self.ids), length)
        sizes = np.minimum(length, len(self.ids) - starts)
        self._starts, self.lengths = starts[sizes >= 2], sizes[sizes >= 2].astype(np.int32)

    @classmethod
    def open(cls, path: Path, token_space: Path, space: TokenSpace, length: int) -> TextSet:
        """Tokenise a text file with the run's tokenizer."""
        return cls(encode_lines(path, open_tokenizer(token_space), space), space, length)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Example:
        index = range(len(self))[index]
        start = int(self._starts[index])
        return build_text(self.space, self.ids[start : start + int(self.lengths[index])])

    def draw(self, index: int, empty_prompt: bool = False) -> Example:
        """What the loader asks for; text has no prompt to drop."""
        return self[index]

    @cached_property
    def identity(self) -> str:
        """SHA-256 over the ids and the cuts."""
        return hashlib.sha256(self.ids.tobytes() + self.lengths.tobytes()).hexdigest()
