"""A folder's files in another: links where the file system has them, copies with their size where not."""

import errno

import pytest

from mmpt.store import links
from mmpt.store.digests import Manifest


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "source" / "a").write_bytes(b"abc")
    (tmp_path / "source" / "deep" / "b").write_bytes(bytes(1000))
    return tmp_path / "source"


def test_nothing_is_copied_within_a_file_system(source, tmp_path):
    assert links.link_folder(source, tmp_path / "new") == 0
    assert Manifest.of(tmp_path / "new") == Manifest.of(source)


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_what_cannot_be_linked_is_copied_and_counted(source, tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, "refused")

    monkeypatch.setattr(links.os, "link", refuse)
    monkeypatch.setattr(links.fcntl, "ioctl", refuse)
    if code == errno.EMLINK:  # of a hard link alone
        monkeypatch.setattr(links, "_reflink", lambda *_: False)
    assert links.link_folder(source, tmp_path / "new") == 1003
    assert Manifest.of(tmp_path / "new") == Manifest.of(source)


def test_a_full_disk_is_not_answered_with_a_copy(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(links.os, "link", refuse)
    monkeypatch.setattr(links, "_reflink", lambda *_: False)
    with pytest.raises(OSError, match="full"):
        links.link_folder(source, tmp_path / "new")
