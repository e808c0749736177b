"""Gates S1 and S2 on a corpus that is really broken: each defect alone, through the stages, to the gate's verdict."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.corpus.split import NO_PAIRS, deal, s2_metrics
from mmpt.stages.corpus import corpus
from mmpt.stages.manifest import manifest
from mmpt.store.canonical import read_json
from mmpt.store.stage import SliceView, StageContext
from tests.gating.gate_evidence import failing, judged, undecided, warning

RNG = np.random.default_rng(0)
MINE = {"name": "mine", "reader": "captions", "path": "mine"}


def lines() -> list[dict]:
    return [
        *({"id": f"p{i}", "image": f"p{i}.png", "caption": f"picture number {i}"} for i in range(4)),
        *({"id": f"s{i}", "audio": f"s{i}.wav", "caption": f"sound number {i}"} for i in range(4)),
    ]


def write_corpus(folder: Path, records: list) -> None:
    folder.mkdir()
    for i in range(4):
        Image.fromarray(RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"p{i}.png")
        soundfile.write(folder / f"s{i}.wav", RNG.normal(0, 0.1, 800), 8000)
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    (folder / "captions.jsonl").write_text(text)


def s1(root: Path, records: list, spoil: Callable[[Path], object] = lambda folder: None, sources=(MINE,)):
    """The verdict of S1 on a folder of four pictures and four sounds, described by `records` and spoilt."""
    write_corpus(root / "mine", records)
    spoil(root / "mine")
    profile = {
        "corpus": {"on_bad_record": "skip", "sources": list(sources)},
        "split": {"val": 0.1, "test": 0.1},
        "codecs": {"audio": {"name": "melrvq"}, "image": {"name": "patchvq"}},
    }
    external = {one["name"]: root / one["path"] for one in sources}
    for body, inputs in ((corpus, {}), (manifest, {"corpus": root / "corpus"})):
        out = root / body.__name__
        out.mkdir()
        body(StageContext(body.__name__, SliceView(profile, tuple(profile)), inputs, out, root, external))
    return judged("S1", read_json(root / "manifest" / "evidence" / "S1.json"))


def test_a_sound_corpus_passes(tmp_path):
    verdict = s1(tmp_path, lines())
    assert verdict.verdict == "GO" and not warning(verdict)


def changed(place: int, **fields) -> list:
    records = lines()
    records[place] |= fields
    return records


@pytest.mark.parametrize(
    ("records", "spoil", "check"),
    [
        (changed(0, image="gone.png"), lambda folder: None, "missing_media"),
        (lines(), lambda folder: (folder / "p1.png").write_text("no picture"), "unreadable_media"),
        (lines(), lambda folder: (folder / "s1.wav").write_bytes(b"RIFFnothing"), "unreadable_media"),
        (lines(), lambda folder: (folder / "p1.png").write_bytes(b""), "empty_media"),
        (lines(), lambda folder: soundfile.write(folder / "s1.wav", np.zeros(0), 8000), "empty_media"),
        (changed(2, caption="  "), lambda folder: None, "empty_captions"),
        (changed(2, id="p1"), lambda folder: None, "duplicate_ids"),
        (changed(2, image="../p2.png"), lambda folder: None, "paths_outside"),
        ([*lines(), '{"id": "torn'], lambda folder: None, "bad_lines"),
    ],
)
def test_each_bad_record_fails_its_own_check_alone(tmp_path, records, spoil, check):
    verdict = s1(tmp_path, records, spoil)
    assert verdict.verdict == "NO_GO" and failing(verdict) == {check}


def test_a_modality_without_a_record_fails(tmp_path):
    verdict = s1(tmp_path, lines()[:4])
    assert verdict.verdict == "NO_GO" and failing(verdict) == {"records [audio]"}


def test_a_source_that_gives_nothing_is_told(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "captions.jsonl").write_text('{"id": "x", "image": "x.png", "caption": "a word"}\n')
    other = {"name": "other", "reader": "captions", "path": "other"}
    assert "silent_sources" in warning(s1(tmp_path, lines(), sources=(MINE, other)))


def records():
    """Twelve records, every second one a sound; four are one described picture a pair."""
    return [
        {
            "id": f"r{i}",
            "modality": ("image", "audio")[i % 2],
            "origin": f"o{i}",
            "content_sha256": f"c{i}",
            "split_hint": "test" if i in (4, 5) else None,
            "attributes": {"colour": f"{i // 2}"},
        }
        for i in range(12)
    ]


SIDES = ["train"] * 2 + ["val"] * 2 + ["test"] * 2 + ["train"] * 6


def s2(found: list[dict], sides: list[str | None] = SIDES, more=()):
    rows = [{"id": one["id"], "split": side} for one, side in zip(found, sides, strict=True) if side]
    return judged("S2", s2_metrics(found, [*rows, *more], NO_PAIRS))


def test_a_sound_split_passes():
    assert s2(records()).verdict == "GO"
    alike = [{**one, "origin": f"o{i // 3}", "content_sha256": f"c{i % 4}"} for i, one in enumerate(records())]
    dealt = failing(judged("S2", s2_metrics(alike, deal(alike, 0.3, 0.3), NO_PAIRS)))
    assert not dealt & {"content", "origins", "official_test", "unassigned"}


def with_(place: int, **fields) -> list[dict]:
    found = records()
    found[place] |= fields
    return found


@pytest.mark.parametrize(
    ("found", "sides", "check"),
    [
        (with_(0, content_sha256="c4"), SIDES, "content"),
        (with_(0, origin="o4"), SIDES, "origins"),
        (with_(0, split_hint="test"), SIDES, "official_test"),
        (records(), [*SIDES[:-1], None], "unassigned"),
        (with_(0, attributes={"colour": "2"}), SIDES, "combinations"),
        (with_(3, modality="image"), SIDES, "sizes [audio.val]"),
        (with_(4, modality="audio"), SIDES, "sizes [image.test]"),
    ],
)
def test_each_torn_split_fails_its_own_check_alone(found, sides, check):
    verdict = s2(found, sides)
    assert verdict.verdict == "NO_GO" and failing(verdict) == {check}


def test_a_record_dealt_twice_is_not_dealt():
    assert failing(s2(records(), more=[{"id": "r0", "split": "test"}])) >= {"unassigned"}


def test_without_a_record_nothing_can_be_said():
    verdict = judged("S2", s2_metrics([], [], NO_PAIRS))
    assert verdict.verdict == "CANNOT_DECIDE" and {"content", "origins", "unassigned"} <= undecided(verdict)
