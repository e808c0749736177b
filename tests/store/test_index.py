"""The index names what was published, and vouches for itself."""

import pytest

from mmpt.store.errors import Edited, UserError
from mmpt.store.index import INDEX, read_index, write_index

DIGESTS = {"a/receipt.json": "a" * 64, "decision.json": "b" * 64}


def test_an_index_reads_back_and_is_not_written_twice(tmp_path):
    write_index(tmp_path, DIGESTS)
    written = (tmp_path / INDEX).stat()
    write_index(tmp_path, DIGESTS)
    assert read_index(tmp_path) == DIGESTS and (tmp_path / INDEX).stat().st_ino == written.st_ino
    write_index(tmp_path, {})
    assert read_index(tmp_path) == {}


@pytest.mark.parametrize("at", range(0, 200, 7))
def test_an_edited_index_says_so(tmp_path, at):
    write_index(tmp_path, DIGESTS)
    data = bytearray((tmp_path / INDEX).read_bytes())
    data[at % len(data)] ^= 1
    (tmp_path / INDEX).write_bytes(data)
    with pytest.raises(Edited):
        read_index(tmp_path)


def test_a_missing_index_is_named(tmp_path):
    with pytest.raises(UserError, match=f"{INDEX}: no such file"):
        read_index(tmp_path)
