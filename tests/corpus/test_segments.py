"""Segments of long recordings: read by seeking, media of their own, one origin, and bounds that are checked."""

import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from mmpt.build import commands_records
from mmpt.codecs import sound_files
from mmpt.codecs.media import MediaError, Segment, load_clip, media_path, read_audio, read_mono, summarise_audio
from mmpt.corpus import captions, table, webdataset
from mmpt.corpus.manifest import measure
from mmpt.corpus.problems import Problem
from mmpt.corpus.split import deal
from mmpt.report import gallery
from mmpt.shards.encode import AudioEncoder
from tests.corpus.test_published_stages import run
from tests.corpus.test_webdataset import shard

RATE, SECONDS = 16_000, 6
TIME = np.arange(RATE * SECONDS) / RATE
WAVE = (
    0.3 * np.sin(2 * np.pi * (300 + 40 * TIME) * TIME) + 0.05 * np.random.default_rng(0).standard_normal(len(TIME))
).astype(np.float32)
FORMS = {"flac": None, "wav": None, "aiff": None, "caf": None, "mp3": None, "ogg": "VORBIS", "opus": "OPUS"}


def stored(suffix):
    stream = io.BytesIO()
    soundfile.write(stream, WAVE, RATE, format={"opus": "OGG"}.get(suffix, suffix.upper()), subtype=FORMS[suffix])
    return stream.getvalue()


@pytest.mark.parametrize("suffix", FORMS)
def test_a_segment_is_what_the_whole_has_there(tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    path.write_bytes(stored(suffix))
    whole, rate = read_audio(path)
    cut = Segment(path, 3.1, 1.7)
    part = whole[:, round(3.1 * rate) : round(4.8 * rate)]
    (tmp_path / "part.flac").touch()
    soundfile.write(tmp_path / "part.flac", part.T, rate, subtype="PCM_24")
    found, summary = read_audio(cut)[0], summarise_audio(cut)
    assert found.shape == part.shape and np.abs(found - part).max() < 1e-6
    assert (summary.samples, summary.rate) == (part.shape[1], rate)
    assert np.array_equal(read_mono(cut, 0.5)[0], found[:, : rate // 2])
    for crop in ("first", "center"):
        one, other = (load_clip(each, 24_000, 1, 0.6, crop) for each in (cut, tmp_path / "part.flac"))
        assert one[1] and other[1] and one[0].shape == other[0].shape and np.abs(one[0] - other[0]).max() < 1e-4
    assert read_audio(Segment(path, 5.5))[0].shape[1] == whole.shape[1] - round(5.5 * rate)


def test_a_segment_is_sought_and_the_structure_of_a_recording_is_read_once(tmp_path, monkeypatch):
    path, looked, decoded = tmp_path / "long.flac", [], []
    path.write_bytes(stored("flac"))
    monkeypatch.setattr(sound_files, "missing_structure", lambda one: looked.append(one) or "")
    real = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames, **form: decoded.append(frames) or real(self, frames, **form)
    )
    for offset in (1.0, 2.0, 5.0):
        read_audio(Segment(path, offset, 0.25))
    assert looked == [path] and sum(decoded) == 3 * RATE // 4


@pytest.mark.parametrize(
    ("offset", "duration", "what"),
    [
        (6.0, 1.0, "the segment is not in the recording"),
        (1e8, None, "the segment is not in the recording"),
        (5.5, 0.6, "the segment is not in the recording"),
        (1.0, 1e-6, "the segment has no sample"),
    ],
)
def test_bounds_are_checked_against_the_recording(tmp_path, offset, duration, what):
    (tmp_path / "a.wav").write_bytes(stored("wav"))
    with pytest.raises(MediaError, match=what) as error:
        read_audio(Segment(tmp_path / "a.wav", offset, duration))
    assert error.value.kind == "bad_line" and "\n" not in str(error.value)


def test_a_rounded_duration_ends_with_the_recording(tmp_path):
    (tmp_path / "a.wav").write_bytes(stored("wav"))
    assert read_audio(Segment(tmp_path / "a.wav", 5.0, 1.04))[0].shape == (1, RATE)


def test_what_cannot_be_sought_is_told(tmp_path):
    soundfile.write(tmp_path / "a.wav", WAVE[::2], 8000, subtype="GSM610")
    with pytest.raises(MediaError, match="a recording that cannot be sought; found WAV GSM610; .* convert it to flac"):
        read_audio(Segment(tmp_path / "a.wav", 1.0, 1.0))


def folder_of(reader, folder, rows):
    """The same rows for each reader that has columns; the items it reads."""
    folder.mkdir(exist_ok=True)
    (folder / "a.flac").write_bytes(stored("flac"))
    source = {"name": "s", "reader": reader}
    if reader == "captions":
        lines = [{"id": f"r{at}", "audio": "a.flac", "caption": "a bell", **row} for at, row in enumerate(rows)]
        (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [item for _, item in captions.read(folder, "s")]
    if reader == "table":
        lines = [{"audio_filepath": "a.flac", "text": "a bell", **row} for row in rows]
        (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [item for _, item in table.read(folder, {**source, "file": "m.jsonl"})]
    members = [
        (f"{at}.{s}", d)
        for at, row in enumerate(rows)
        for s, d in (("flac", stored("flac")), ("json", json.dumps({"caption": "a bell", **row})))
    ]
    shard(folder / "s.tar", *members)
    return [item for _, item in webdataset.read(folder, source)]


READERS = ("captions", "table", "webdataset")


@pytest.mark.parametrize("reader", READERS)
def test_segments_of_one_recording_are_media_of_one_origin(tmp_path, reader):
    rows = [{"offset": 1, "duration": 1.5}, {"offset": "2.5", "duration": "1.5"}, {"offset": 4.0}]
    found = folder_of(reader, tmp_path / "s", rows)
    told = [(one["media"]["offset"], one["media"].get("duration")) for one in found]
    assert told == [(1.0, 1.5), (2.5, 1.5), (4.0, None)] and len({one["id"] for one in found}) == 3
    if reader != "webdataset":  # there each sample brings its own medium
        assert {one["origin"] for one in found} == {"s/a.flac"}
    measured = [measure(one, {"s": tmp_path / "s"}) for one in found]
    for key in ("media_sha256", "content_sha256"):
        assert len({one[key] for one in measured}) == 3
    assert [one["audio"]["samples"] for one in measured] == [24_000, 24_000, 32_000]
    again = folder_of(reader, tmp_path / "s", [{"offset": 1.0, "duration": 1.5}])[0]
    assert measure(again, {"s": tmp_path / "s"})["media_sha256"] == measured[0]["media_sha256"]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"offset": -1}, "offset is not a place"),
        ({"offset": float("nan")}, "offset is not a place"),
        ({"offset": "1:30"}, "offset is not a place"),
        ({"offset": True}, "offset is not a place"),
        ({"offset": [1]}, "offset is not a place"),
        ({"offset": 10**400}, "offset is not a place"),
        ({"offset": 1, "duration": 0}, "duration is not a length"),
        ({"offset": 1, "duration": -2}, "duration is not a length"),
        ({"offset": 1, "duration": "inf"}, "duration is not a length"),
    ],
)
def test_an_impossible_segment_is_one_bad_record(tmp_path, reader, row, what):
    bad, fine = folder_of(reader, tmp_path / "s", [row, {"offset": 1}])
    assert isinstance(bad, Problem) and bad.kind == "bad_line" and bad.what.startswith(what)
    assert fine["media"]["offset"] == 1.0 and "\n" not in str(bad)


def test_a_misspelt_offseis_no_whole_recording(tmp_path):
    (bad,) = folder_of("captions", tmp_path, [{"offse": 1}])
    assert (bad.what, bad.found) == ("unknown field", "offse")


def test_a_length_in_a_column_cuts_nothing_but_in_manifests_of_nemo(tmp_path):
    (plain,) = folder_of("captions", tmp_path / "c", [{"duration": 240}])
    assert set(plain["media"]) == {"root", "path"}
    (nemo,) = folder_of("table", tmp_path / "t", [{"duration": 1.5}])
    assert (nemo["media"]["offset"], nemo["media"]["duration"]) == (0.0, 1.5)
    (tmp_path / "t/n.csv").write_text("audio,text,duration,length\na.flac,a bell,04:00,2\n")
    source = {"name": "s", "reader": "table", "file": "n.csv"}
    ((_, whole),) = table.read(tmp_path / "t", source)
    assert set(whole["media"]) == {"root", "path"} and whole["id"] == "s:a.flac"
    ((_, named),) = table.read(tmp_path / "t", {**source, "columns": {"duration": "length"}})
    assert named["media"]["duration"] == 2.0 and named["id"] == "s:a.flac@0+2"


def test_a_picture_has_no_segment(tmp_path):
    from PIL import Image

    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "metadata.csv").write_text("file_name,text,offset\na.png,a cat,3\na.png,a cat,0\n")
    (_, bad), (_, fine) = table.read(tmp_path, {"name": "s"})
    assert bad.what == "a segment of a picture" and set(fine["media"]) == {"root", "path"}


def test_segments_through_the_stages_stay_on_one_side_and_a_bad_bound_is_counted(tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    rows = []
    for at in range(12):
        soundfile.write(folder / f"{at}.flac", np.sin(TIME**2 * (30 + 70 * at)) * (0.1 + 0.02 * at), RATE)
        rows += [
            {"audio_filepath": f"{at}.flac", "offset": 1.5 * part, "duration": 1.5, "text": "a bell"}
            for part in range(3)
        ]
    rows.append({"audio_filepath": "3.flac", "offset": 99.0, "duration": 1.5, "text": "a bell"})
    (folder / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    option = {"file": "m.jsonl"}
    split, manifest, s1, s2 = run(tmp_path / "run", {"table": folder}, mode="skip", table=option)
    assert s2.verdict == "GO" and len(split) == 36 and set(split.values()) == {"train", "val", "test"}
    for at in range(12):
        assert len({side for one, side in split.items() if manifest[one]["media"]["path"] == f"{at}.flac"}) == 1
    assert {(check.id, check.value) for check in s1.failing()} == {("bad_lines", 1)}
    torn = list(deal([{**one, "origin": key} for key, one in manifest.items()], 0.3, 0.3))
    sides = {}
    for row in torn:
        sides.setdefault(manifest[row["id"]]["media"]["path"], set()).add(row["split"])
    assert any(len(one) > 1 for one in sides.values()), "without the origin they would be torn"


def test_a_segment_of_a_member_of_a_tar(tmp_path):
    (one,) = folder_of("webdataset", tmp_path / "s", [{"offset": 2.0, "duration": 0.5}])
    path = media_path(one, {"s": tmp_path / "s"})
    expected = read_audio(Segment(tmp_path / "s/a.flac", 2.0, 0.5))[0]
    assert np.array_equal(read_audio(path)[0], expected) and "@" not in path.name


def test_what_is_tokenised_and_what_the_report_plays_is_the_segment(tmp_path):
    (one,) = folder_of("table", tmp_path / "s", [{"offset": 2.0, "duration": 0.5}])
    expected = read_audio(Segment(tmp_path / "s/a.flac", 2.0, 0.5))[0]
    codec = SimpleNamespace(sample_rate=RATE, channels=1)
    wave, cut = AudioEncoder(codec, None, {"s": tmp_path / "s"}, clip_seconds=4.0).load(one)
    assert not cut and np.array_equal(wave, expected)
    played = gallery._original({**one, "task": "a2t"}, "audio", {"s": tmp_path / "s"}, tmp_path / "played")
    assert np.abs(soundfile.read(played)[0] - expected[0]).max() < 1e-4
    said = commands_records.story_lines({**STORY, "record": one})
    assert any(line.endswith("s/a.flac, from 2 s for 0.5 s") for line in said)


STORY = {"id": "x", "lost": [], "split": None, "tokens": None, "tasks": {}, "outputs": []}
