"""Of a source's folder counts what a run uses: its tables, which files there are, and the media that records name."""

import os
import sys
import time
from dataclasses import dataclass

import pytest

from mmpt.build.sources import Sources
from mmpt.corpus.readers import read_source
from mmpt.corpus.source_tables import TABLES, is_table, tables
from mmpt.profile import Profile
from mmpt.store import stat_cache, watch
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stat_cache import StatCache
from tests.corpus import published_folders as made


@dataclass
class World:
    """A source `captions` with a table, three pictures of which two are named, and what else lies in a folder."""

    folder: object
    records: object
    state: object

    def open(self) -> Sources:
        section = {"name": "mine", "reader": "captions", "path": str(self.folder)}
        profile = Profile({"name": "p", "corpus": {"sources": [section]}}, self.state)
        return Sources(profile, StatCache(self.state / "stat.json"), self.state / "sources.json")

    def ask(self) -> tuple[str, str]:
        """(tables, named) of a fresh process, which keeps what it learned."""
        sources = self.open()
        answers = sources.tables("mine"), sources.named("mine", self.records)
        sources._cache.save()
        sources.save()
        return answers


@pytest.fixture
def world(tmp_path) -> World:
    folder = tmp_path / "source"
    (folder / "deep").mkdir(parents=True)
    for name in ("captions.jsonl", "a.png", "deep/b.png", "unused.png", "archive.zip"):
        (folder / name).write_text(name)
    records = tmp_path / "records.jsonl"
    named = [("mine", "a.png"), ("mine", "deep/b.png"), ("mine", "deep/../a.png"), ("other", "unused.png")]
    write_jsonl(records, [{"media": {"root": root, "path": path}} for root, path in named])
    time.sleep(2.5 * stat_cache.RACY_NS / 1e9)  # old enough to be remembered
    return World(folder, records, tmp_path / "state")


def edit(path) -> None:
    path.write_text("x" * path.stat().st_size)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: None, (False, False)),
        (lambda folder: os.utime(folder / "a.png"), (False, False)),
        (lambda folder: edit(folder / "a.png"), (False, True)),
        (lambda folder: edit(folder / "deep/b.png"), (False, True)),
        (lambda folder: edit(folder / "unused.png"), (False, False)),
        (lambda folder: edit(folder / "archive.zip"), (False, False)),
        (lambda folder: edit(folder / "captions.jsonl"), (True, False)),
        (lambda folder: (folder / "new.png").write_text(""), (True, False)),
        (lambda folder: (folder / "unused.png").unlink(), (True, False)),
        (lambda folder: (folder / "a.png").unlink(), (True, True)),
    ],
    ids=["none", "touch", "named", "deep", "unused", "archive", "table", "new", "unused gone", "named gone"],
)
def test_what_changes_the_digests(world, change, expected):
    before = world.ask()
    change(world.folder)
    after = world.ask()
    assert tuple(a != b for a, b in zip(before, after, strict=True)) == expected
    assert world.ask() == after


def test_only_tables_and_named_media_are_read(world, monkeypatch):
    read = []
    monkeypatch.setattr(stat_cache, "sha256_file", lambda path: read.append(os.path.basename(path)) or "0" * 64)
    world.ask()
    assert sorted(read) == ["a.png", "b.png", "captions.jsonl", "records.jsonl"]


def test_a_second_run_reads_nothing_and_looks_once(world, monkeypatch):
    world.ask()
    monkeypatch.setattr(stat_cache, "sha256_file", lambda path: pytest.fail(f"read {path} again"))
    looks = []
    real = Sources._look.__globals__["look"]
    monkeypatch.setitem(Sources._look.__globals__, "look", lambda folder: looks.append(folder) or real(folder))
    world.ask()
    assert looks == [world.folder]


def test_an_edit_between_two_looks_of_one_process_is_seen_after_looking_again(world):
    sources = world.open()
    before = sources.named("mine", world.records)
    edit(world.folder / "a.png")
    assert sources.named("mine", world.records) == before
    sources.look_again()
    assert sources.named("mine", world.records) != before


READERS = {
    "clotho": made.clotho,
    "audiocaps": made.audiocaps,
    "wavcaps": lambda root: made.wavcaps(root, ["Yabc", "Yabd"], [1, 2], ("1",)),
    "musiccaps": made.musiccaps,
    "llava_pretrain": made.llava,
}


@pytest.mark.parametrize("reader", READERS)
def test_readers_open_no_table_that_does_not_count(reader, tmp_path):
    assert set(TABLES) == {*READERS, "captions", "table", "webdataset", "parquet"}
    folder = READERS[reader](tmp_path / "source")
    source = {"name": "mine", "reader": reader, "path": str(folder)}
    opened = []

    def note(event, arguments):
        if event == "open" and str(arguments[0]).startswith(str(folder)):
            opened.append(str(arguments[0]))

    sys.addaudithook(note)
    assert list(read_source(source, folder, tmp_path / "out", 0, (0.1, 0.1)))
    media = (".wav", ".flac", ".jpg", ".png")
    assert opened and {one for one in opened if not one.endswith(media) and not is_table(one, tables(source))} == set()


def test_what_takes_long_says_what_it_does_and_how_fast(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    one = watch.Watch("hashing clotho", 10, 1_000_000_000)
    for now[0] in (0.5, 1.0, 1.5, 12.0):
        one.step(1, 100_000_000)
    assert capsys.readouterr().err.splitlines() == [
        "hashing clotho: 2 of 10 files, 200 MB/s, 4 s left",
        "hashing clotho: 4 of 10 files, 33 MB/s, 18 s left",
    ]
