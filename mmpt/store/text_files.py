"""Checks that a file is plain UTF-8 text; if not, which format its first bytes show or which bytes do not decode."""

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
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"PAR1": "Parquet",
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
LONGEST_MARK = max(map(len, MARKS))


def refuse_other_files(head: bytes, where: object) -> None:
    """Raise UserError where a file's first bytes are those of a compressed or Parquet file, of UTF-16 or UTF-32."""
    if kind := next((kind for mark, kind in MARKS.items() if head.startswith(mark)), ""):
        fix = "save it as UTF-8 text" if kind.startswith(("UTF", "zip", "Parquet")) else "unpack it"
        raise UserError("not UTF-8 text", where=where, found=kind, expected="plain UTF-8 text", fix=fix)


def not_utf8(error: UnicodeDecodeError, where: object, lines_before: int = 0) -> UserError:
    """The error for bytes that do not decode; they begin after this number of lines of the file."""
    line = lines_before + error.object.count(b"\n", 0, error.start) + 1
    return UserError(
        "not UTF-8 text",
        where=where,
        found=f"byte 0x{error.object[error.start]:02x} in line {line}",
        expected="UTF-8",
        fix="save it as UTF-8: iconv -f latin1 -t utf-8 FILE",
    )


def undecodable(path: Path, where: object) -> UserError:
    """The same for a file that was read in blocks, whose error does not know its line."""
    with path.open("rb") as stream:
        for before, line in enumerate(stream):
            try:
                line.decode()
            except UnicodeDecodeError as error:
                return not_utf8(error, where, before)
    return UserError("not UTF-8 text", where=where)


def check_beginning(path: Path, where: object, most: int = 1 << 20) -> None:
    """Refuse a file that is no UTF-8 text in its first `most` bytes.

    Raises:
        UserError: compressed, Parquet, in UTF-16 or UTF-32, or bytes that do not decode.  OSError: it cannot be read.
    """
    with path.open("rb") as stream:
        data = stream.read(most)
    refuse_other_files(data, where)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data, final=len(data) < most)  # the bound may cut a character
    except UnicodeDecodeError as error:
        raise not_utf8(error, where) from None
