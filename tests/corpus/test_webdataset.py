"""Reader `webdataset`: tars read in place give what the same files give, and a damaged one costs what it lost."""

import io
import json
import tarfile

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.codecs.media import Member, load_clip, load_image, media_path, picture_size, read_audio, summarise_audio
from mmpt.corpus import webdataset
from mmpt.corpus.manifest import measure
from mmpt.corpus.problems import Problem
from mmpt.store.errors import UserError

RNG = np.random.default_rng(0)


def stored(suffix):
    stream = io.BytesIO()
    if suffix in ("png", "jpg", "webp", "tiff"):
        pixels = RNG.integers(0, 255, (9, 7, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tiff": "TIFF"}.get(suffix, suffix.upper()))
    else:
        form = {"opus": ("OGG", "OPUS")}.get(suffix, (suffix.upper(), None))
        soundfile.write(stream, RNG.standard_normal(8000) * 0.1, 16_000, format=form[0], subtype=form[1])
    return stream.getvalue()


def shard(path, *members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def read(folder, **source):
    return [item for _, item in webdataset.read(folder, {"name": "w", **source})]


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "opus", "png", "jpg", "webp", "tiff"])
def test_a_member_is_read_as_its_file_would_be(tmp_path, suffix):
    data = stored(suffix)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    shard(
        tmp_path / "s.tar",
        ("x.txt", "before"),
        ("x.png", b"odd"),
        (f"a.{suffix}", data),
        ("a.txt", "a bell"),
        ("b.txt", "z" * 999),
    )
    _, item, _ = read(tmp_path)
    alone = {**item, "media": {"root": "w", "path": f"a.{suffix}"}}
    inside, outside = (measure(one, {"w": tmp_path}) for one in (item, alone))
    assert isinstance(media_path(item, {"w": tmp_path}), Member) and inside["media"]["bytes"] == len(data)
    for key in ("bytes", "media_sha256", "content_sha256", "audio", "image"):
        assert inside[key] == outside[key], key
    member, file = media_path(item, {"w": tmp_path}), tmp_path / f"a.{suffix}"
    if item["modality"] == "image":
        assert np.array_equal(load_image(member), load_image(file)) and picture_size(member) == picture_size(file) == (
            7,
            9,
        )
    else:
        assert summarise_audio(member) == summarise_audio(file)
        assert np.array_equal(read_audio(member)[0], read_audio(file)[0])
        assert np.array_equal(
            load_clip(member, 24_000, 1, 0.2, "center")[0], load_clip(file, 24_000, 1, 0.2, "center")[0]
        )


def test_samples_their_columns_captions_and_splits(tmp_path):
    told = {"caption": ["a cat", "a tabby"], "license": "CC0", "origin": "film 1", "width": 9}
    shard(tmp_path / "train-000.tar", ("d/1.png", stored("png")), ("d/1.json", json.dumps(told)))
    shard(tmp_path / "val/001.tar", ("2.wav", stored("wav")), ("2.txt", "a bell\n"), ("2.cls", "7"))
    first, second, third = read(tmp_path)
    assert [one["caption"] for one in (first, second, third)] == ["a cat", "a tabby", "a bell"]
    assert [one["split_hint"] for one in (first, second, third)] == ["train", "train", "val"]
    assert (first["id"], second["id"], third["id"]) == (
        "w:train-000.tar:d/1:0",
        "w:train-000.tar:d/1:1",
        "w:val/001.tar:2",
    )
    assert (first["license"], first["origin"], third["origin"]) == ("CC0", "film 1", "w/val/001.tar/2.wav")
    assert third["media"]["path"] == "val/001.tar" and third["media"]["member"] == "2.wav"


@pytest.mark.parametrize(
    ("members", "kind", "what"),
    [
        ([("a.png", b"x")], "missing_column", "missing caption"),
        ([("a.txt", "x")], "missing", "no medium in a sample"),
        ([("a.png", b"x"), ("a.wav", b"y"), ("a.txt", "x")], "ambiguous", "more than one medium"),
        ([("a.png", b"x"), ("a.json", "{")], "bad_line", "not JSON"),
        ([("a.png", b"x"), ("a.json", "[" * 99_999)], "bad_line", "not JSON"),
        ([("a.png", b"x"), ("a.json", "[]")], "bad_line", "not a JSON object"),
        ([("a.png", b"x"), ("a.txt", b"\xff")], "bad_line", "not UTF-8"),
        ([("a.png", b"x"), ("a.txt", b"x" * (2 << 20))], "bad_line", "text is too long"),
        ([("a.png", b"x"), ("a.json", '{"caption": "\\ud800"}')], "bad_line", "half of a surrogate pair"),
        ([("a.png", b"x"), ("a.txt", "\u200b")], "empty_caption", "empty caption"),
    ],
)
def test_a_bad_sample_is_one_bad_record(tmp_path, members, kind, what):
    shard(tmp_path / "s.tar", *members, ("b.png", stored("png")), ("b.txt", "fine"))
    bad, fine = read(tmp_path)
    assert isinstance(bad, Problem) and bad.kind == kind and bad.what.startswith(what) and fine["caption"] == "fine"


def test_a_shard_that_stops_costs_what_it_lost(tmp_path):
    path = shard(
        tmp_path / "s.tar", *((f"{i}.{s}", d) for i in range(4) for s, d in (("txt", "a bell"), ("wav", stored("wav"))))
    )
    data = path.read_bytes()
    for share in range(1, 40):
        path.write_bytes(data[: len(data) * share // 40])
        try:
            items = read(tmp_path)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        kept = [one for one in items if isinstance(one, dict)]
        measured = [measure(one, {"w": tmp_path}) for one in kept]
        assert all(one.kind == "unreadable" for one in measured if isinstance(one, Problem))
        assert sum(isinstance(one, dict) for one in measured) <= share // 10 + 1


def test_a_compressed_tar_is_told(tmp_path):
    shard(tmp_path / "s.tar", ("a.txt", "x"))
    import gzip

    (tmp_path / "s.tar").rename(tmp_path / "t")
    packed = gzip.compress((tmp_path / "t").read_bytes())
    (tmp_path / "s.tar.gz").write_bytes(packed)
    with pytest.raises(UserError, match="found s.tar.gz; .* cannot be read in place: gunzip it"):
        read(tmp_path)
    (tmp_path / "s.tar").write_bytes(packed)
    with pytest.raises(UserError, match="not a tar that can be read in place"):
        read(tmp_path)
