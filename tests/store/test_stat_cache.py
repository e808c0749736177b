"""What the stat cache remembers of folders, and what it must not believe."""

import os
import time

import pytest

import mmpt.store.stat_cache as stat_cache
from mmpt.store.digests import Manifest
from mmpt.store.scan import scan
from mmpt.store.stat_cache import StatCache


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for name in ("a", "b", "sub/c"):
        (tmp_path / "data" / name).write_text(name)
    time.sleep(2.5 * stat_cache.RACY_NS / 1e9)  # old enough to be remembered
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "state" / "stat.json"


def learned(folder, cache) -> str:
    known = StatCache(cache)
    manifest = Manifest.of(folder, known)
    known.save()
    return manifest.digest


def test_an_unchanged_folder_is_vouched_for_without_reading_it(folder, cache, monkeypatch):
    digest = learned(folder, cache)
    monkeypatch.setattr(stat_cache, "sha256_file", lambda _: pytest.fail("read again"))
    assert StatCache(cache).vouches(folder, digest)
    assert StatCache(cache).folder_digest(folder) == digest
    assert not StatCache(cache).vouches(folder, "0" * 64)


@pytest.mark.parametrize("change", ["edit", "same mtime", "touch", "delete", "add", "rename", "swap"])
def test_a_changed_folder_is_not(folder, cache, change):
    digest, path = learned(folder, cache), folder / "sub" / "c"
    before = path.stat()
    if change in ("edit", "same mtime"):
        path.write_text("x" * before.st_size)
        if change == "same mtime":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "touch":
        os.utime(path)
    elif change == "delete":
        path.unlink()
    elif change == "add":
        (folder / "d").write_text("")
    elif change == "rename":
        path.rename(folder / "sub" / "d")
    else:
        for old, new in (("a", "x"), ("b", "a"), ("x", "b")):
            (folder / old).rename(folder / new)
    assert not StatCache(cache).vouches(folder, digest)
    assert (StatCache(cache).folder_digest(folder) == digest) == (change == "touch")


def test_only_what_changed_is_read_again(folder, cache, monkeypatch):
    learned(folder, cache)
    (folder / "b").write_text("other")
    read, real = [], stat_cache.sha256_file
    monkeypatch.setattr(stat_cache, "sha256_file", lambda path: read.append(os.path.basename(path)) or real(path))
    StatCache(cache).hashes(folder)
    assert read == ["b"]


def test_a_young_file_is_not_remembered(folder, cache):
    (folder / "b").write_text("young")
    assert not StatCache(cache).vouches(folder, learned(folder, cache))


def test_a_file_from_the_future_is_not_remembered(folder, cache, monkeypatch):
    monkeypatch.setattr(stat_cache.time, "time_ns", lambda: 10**18)  # the clock was set back, to 2001
    assert not StatCache(cache).vouches(folder, learned(folder, cache))


def test_a_moved_folder_and_its_cache_stay_good(folder, cache, tmp_path):
    digest = learned(folder, cache)
    (tmp_path / "elsewhere").mkdir()
    for name in ("data", "state"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert StatCache(tmp_path / "elsewhere/state/stat.json").vouches(tmp_path / "elsewhere" / "data", digest)


def test_what_is_known_follows_a_rename(folder, cache, tmp_path):
    known = StatCache(cache)
    digest = Manifest.of(folder, known).digest
    folder.rename(tmp_path / "final")
    known.moved(folder, tmp_path / "final")
    known.save()
    assert StatCache(cache).vouches(tmp_path / "final", digest)


def test_a_damaged_cache_vouches_for_nothing_and_accuses_nobody(folder, cache):
    digest = learned(folder, cache)
    for path in cache.parent.rglob("*.json"):
        path.write_bytes(path.read_bytes().replace(b"a", b"b"))
    assert not StatCache(cache).vouches(folder, digest)
    assert StatCache(cache).folder_digest(folder) == digest


def test_linked_folders_count_and_links_to_nothing_or_in_a_circle_do_not(folder, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d").write_text("d")
    (folder / "linked").symlink_to(tmp_path / "more")
    (folder / "broken").symlink_to(tmp_path / "nothing")
    assert set(scan(folder)) == {"a", "b", "sub/c", "linked/d"}
    (folder / "sub" / "circle").symlink_to(folder)
    assert set(scan(folder)) == {"a", "b", "sub/c", "linked/d"}
    (tmp_path / "more" / "back").symlink_to(folder)  # linked/back is the folder itself
    (folder / "sub" / "two").symlink_to(tmp_path / "more")
    assert set(scan(folder)) == {"a", "b", "sub/c", "linked/d", "sub/two/d"}
