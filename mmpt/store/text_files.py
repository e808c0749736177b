"""Files that should be plain UTF-8 text: what one is instead, by its first bytes or by the first that do not decode."""

from __future__ import annotations

import codecs
from pathlib import Path

from mmpt.store.errors import UserError

MARKS = {
    b"\x1f\x8b": "gzip",
    b"PK\3\4": "zip (xlsx)",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LONGEST_MARK = max(map(len, MARKS))


def refuse_other_files(head: bytes, where: object) -> None:
    """Raise UserError where a file's first bytes are those of a compressed file or of UTF-16."""
    if kind := next((kind for mark, kind in MARKS.items() if head.startswith(mark)), ""):
        fix = "save it as UTF-8" if kind.startswith(("UTF", "zip")) else "unpack it"
        raise UserError("not UTF-8 text", where=where, found=kind, expected="plain UTF-8 text", fix=fix)


def not_utf8(error: UnicodeDecodeError, where: object) -> UserError:
    """The error for a file whose bytes, from its beginning, do not decode."""
    line = error.object.count(b"\n", 0, error.start) + 1
    return UserError(
        "not UTF-8 text",
        where=where,
        found=f"byte 0x{error.object[error.start]:02x} in line {line}",
        expected="UTF-8",
        fix="save it as UTF-8: iconv -f latin1 -t utf-8 FILE",
    )


def check_beginning(path: Path, where: object, most: int = 1 << 20) -> None:
    """Refuse a file that is no UTF-8 text in its first `most` bytes.

    Raises:
        UserError: compressed, in UTF-16, or bytes that do not decode.  OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(most)
    refuse_other_files(data, where)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=len(data) < most)  # the bound may cut a character
    except UnicodeDecodeError as error:
        raise not_utf8(error, where) from None
