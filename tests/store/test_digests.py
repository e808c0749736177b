"""Manifests parse back, verify exactly, and name every difference; the stat cache sees same-mtime edits."""

import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpt.store.digests import Difference, Manifest, sha256_bytes, sha256_file
from mmpt.store.errors import UserError
from mmpt.store.stat_cache import StatCache

parts = st.text("abzAZ019_. -", min_size=1, max_size=20).filter(lambda name: name != "..")
names = st.lists(parts, min_size=1, max_size=2).map("/".join)
entries = st.dictionaries(names, st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=8)


@given(entries)
def test_manifest_parses_back(listed):
    manifest = Manifest(tuple(sorted(listed.items())))
    assert Manifest.parse(str(manifest)) == manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    (tmp_path / "sub" / "b.txt").write_text("b")
    return tmp_path


def test_untouched_folder_verifies(folder):
    assert Manifest.of(folder).verify(folder) == []


def test_sha256sum_reads_our_manifest(folder, tmp_path_factory):
    import subprocess

    listing = tmp_path_factory.mktemp("m") / "MANIFEST.sha256"
    listing.write_text(str(Manifest.of(folder)))
    subprocess.run(["sha256sum", "-c", "--strict", str(listing)], cwd=folder, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("seed", range(20))
def test_one_flipped_byte_is_named(folder, seed):
    manifest, rng = Manifest.of(folder), random.Random(seed)
    name = rng.choice(["a.bin", "sub/b.txt"])
    data = bytearray((folder / name).read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    (folder / name).write_bytes(data)
    assert [(one.path, one.kind) for one in manifest.verify(folder)] == [(name, "edited")]


def test_missing_and_extra_files_are_named(folder):
    manifest = Manifest.of(folder)
    (folder / "a.bin").unlink()
    (folder / "new").write_text("")
    assert {(one.path, one.kind) for one in manifest.verify(folder)} == {("a.bin", "missing"), ("new", "extra")}
    assert "missing" in str(Difference("x", "missing"))


@pytest.mark.parametrize(
    "text",
    [
        "zz  a\n",
        "0" * 64 + " a\n",
        "0" * 64 + "  /etc/passwd\n",
        "0" * 64 + "  ../x\n",
        "0" * 64 + "  a\n" + "1" * 64 + "  a\n",
    ],
)
def test_bad_manifest_lines_are_refused(text):
    with pytest.raises(UserError):
        Manifest.parse(text)


def test_stat_cache_sees_an_edit_that_keeps_size_and_mtime(tmp_path):
    path, cache = tmp_path / "f", StatCache(tmp_path / "cache.json")
    path.write_bytes(b"one")
    before = os.stat(path)
    first = cache.digest(path)
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.digest(path) == sha256_bytes(b"two") != first


def test_stat_cache_does_not_read_an_unchanged_file_again(tmp_path, monkeypatch):
    import mmpt.store.stat_cache as stat_cache

    path = tmp_path / "f"
    path.write_bytes(b"x")
    os.utime(path)
    monkeypatch.setattr(stat_cache, "RACY_NS", -(10**18))
    cache = StatCache(tmp_path / "cache.json")
    value = cache.digest(path)
    cache.save()
    monkeypatch.setattr(stat_cache, "sha256_file", lambda _: pytest.fail("read again"))
    assert StatCache(tmp_path / "cache.json").digest(path) == value


def test_damaged_stat_cache_only_costs_time(tmp_path):
    (tmp_path / "cache.json").write_text("[1, 2")
    path = tmp_path / "f"
    path.write_bytes(b"x")
    assert StatCache(tmp_path / "cache.json").digest(path) == sha256_file(path)
