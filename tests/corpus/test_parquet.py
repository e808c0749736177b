"""Reader `parquet`: values in parquet and arrow files give what the same files give; damage costs what it lost."""

import sys
from datetime import datetime

import numpy as np
import pytest

from mmpt.codecs import cells
from mmpt.codecs.media import (
    Cell,
    MediaError,
    Member,
    load_clip,
    load_image,
    media_path,
    picture_size,
    read_audio,
    summarise_audio,
)
from mmpt.corpus import parquet, parquet_rows
from mmpt.corpus.first_look import first_look
from mmpt.corpus.manifest import measure
from mmpt.corpus.problems import Problem
from mmpt.profile import load_profile, packages
from mmpt.profile.missing import missing
from mmpt.store.errors import UserError
from tests.corpus.parquet_files import MEDIUM, NEEDS_PYARROW, table_of, write
from tests.corpus.test_webdataset import stored

pytestmark = NEEDS_PYARROW
FORMS = ("parquet", "arrow", "arrow file")


def written(folder, form, columns, rows=3, kinds=None, features=None, name="train-00000-of-00001"):
    table = table_of(columns, {"audio": MEDIUM, "image": MEDIUM} if kinds is None else kinds, features)
    return write(folder / f"{name}.{form.split()[0]}", table, rows, "file" if form == "arrow file" else "stream")


def read(folder, **source):
    return [item for _, item in parquet.read(folder, {"name": "p", **source})]


def good(folder, **source):
    found = read(folder, **source)
    assert not [str(one) for one in found if isinstance(one, Problem)]
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "opus", "png", "jpg", "webp"])
def test_a_value_is_read_as_its_file_would_be(tmp_path, form, suffix):
    data = stored(suffix)
    (tmp_path / f"a.{suffix}").write_bytes(data)
    column = "image" if suffix in ("png", "jpg", "webp") else "audio"
    media = [{"bytes": b"x" * 999, "path": None}, {"bytes": data, "path": f"a.{suffix}"}, {"bytes": b"y", "path": "b"}]
    written(tmp_path, form, {column: media, "text": ["one", "two", "three"]}, rows=2)
    item = good(tmp_path)[1]
    alone = {**item, "media": {"root": "p", "path": f"a.{suffix}"}}
    inside, outside = (measure(one, {"p": tmp_path}) for one in (item, alone))
    value, file = media_path(item, {"p": tmp_path}), tmp_path / f"a.{suffix}"
    assert isinstance(value, Cell if form == "parquet" else Member)
    for key in ("bytes", "media_sha256", "content_sha256", "audio", "image"):
        assert inside[key] == outside[key], key
    if column == "image":
        assert np.array_equal(load_image(value), load_image(file)) and picture_size(value) == picture_size(file)
    else:
        assert summarise_audio(value) == summarise_audio(file)
        one, other = (load_clip(each, 24_000, 1, 0.2, "center")[0] for each in (value, file))
        assert np.array_equal(one, other)


@pytest.mark.parametrize("form", FORMS)
def test_rows_captions_splits_and_columns_of_any_name(tmp_path, form):
    sound = {"bytes": stored("wav"), "path": "x.wav"}
    columns = {
        "clip": [sound, sound],
        "words": [["a bell", "one bell"], ["a buzz"]],
        "speaker": [7, 8],
        "session": [3, None],
        "kind": [1, 0],
        "when": [datetime(2026, 1, 1), None],
    }
    features = {"kind": {"_type": "ClassLabel", "names": ["buzz", "bell"]}, "clip": {"_type": "Audio"}}
    named = {"caption": "words", "group": "speaker", "origin": "session", "category": "kind"}
    for name in ("train-00000-of-00002", "validation-00000-of-00001", "test/0000"):
        written(tmp_path / "data", form, columns, kinds={"clip": MEDIUM}, features=features, name=name)
    found = good(tmp_path, columns=named)
    path = f"data/train-00000-of-00002.{form.split()[0]}"
    mine = [one for one in found if one["media"]["path"] == path]
    assert [one["id"] for one in mine] == [f"p:{path}:0:0", f"p:{path}:0:1", f"p:{path}:1"]
    assert [one["caption"] for one in mine] == ["a bell", "one bell", "a buzz"]
    told = [(one["origin"], one["group"], one["category"]) for one in mine]
    assert told == [("3", "p/7", "bell"), ("3", "p/7", "bell"), (f"p/{path}/1", "p/8", "buzz")]
    assert [one["split_hint"] for one in found] == ["test"] * 3 + ["train"] * 3 + ["val"] * 3
    assert {one["modality"] for one in found} == {"audio"}
    assert [
        len(good(tmp_path, columns=named, limit=1)),
        len(good(tmp_path, columns=named, file=f"train*.{form.split()[0]}")),
    ] == [6, 3]


@pytest.mark.parametrize("form", FORMS)
def test_paths_without_bytes_are_files_beside(tmp_path, form):
    for name in ("a.png", "sub/a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(stored("png"))
    media = [{"bytes": None, "path": "a.png"}, {"bytes": stored("png"), "path": "a.png"}, None, {"bytes": None}]
    written(tmp_path / "sub", form, {"image": media, "text": ["one", "two", "three", "four"]}, rows=4)
    one, two, three, four = read(tmp_path)
    assert one["media"] == {"root": "p", "path": "sub/a.png"} and "member" in two["media"]
    assert {three.kind, four.kind} == {"missing"} and three.what == "no medium in a row"
    written(tmp_path / "plain", form, {"file_name": ["../sub/b.png", "/etc/passwd"], "text": ["one", "two"]})
    first, second = read(tmp_path / "plain")
    assert (first.kind, second.kind) == ("outside", "outside")
    written(tmp_path / "sub", form, {"file_name": ["b.png"], "text": ["one"]}, name="again")
    assert good(tmp_path, file="again.*")[0]["id"] == "p:sub/b.png"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("field", "value", "kind", "what"),
    [
        ("text", None, "missing_column", "missing caption"),
        ("text", "\u200b", "empty_caption", "empty caption"),
        ("split", "holdout", "bad_line", "unknown split"),
        ("offset", float("nan"), "bad_line", "offset is not a place"),
    ],
)
def test_a_bad_row_is_one_bad_record(tmp_path, form, field, value, kind, what):
    columns = {"audio": [{"bytes": stored("wav"), "path": None}] * 2, "text": ["fine", "fine"], field: [value, None]}
    columns["text"][1] = "fine"
    written(tmp_path, form, columns, kinds={"audio": MEDIUM, "split": "string", "offset": "float64"})
    bad, fine = read(tmp_path)
    assert isinstance(bad, Problem) and bad.kind == kind and bad.what.startswith(what) and fine["caption"] == "fine"


@pytest.mark.parametrize(
    ("columns", "kinds", "source", "match"),
    [
        ({"x": ["a"], "y": [1]}, {}, {}, "no column for audio or image and caption; found x, y; .* name it"),
        ({"audio": [1.5], "text": ["a"]}, {}, {}, "no column for audio or image; found audio, text"),
        (
            {"audio": [None], "image": [None], "text": ["a"]},
            None,
            {},
            "more than one column of media; found audio, image",
        ),
        ({"audio": [None], "text": ["a"]}, None, {"columns": {"caption": "words"}}, "no column for caption"),
        (
            {"audio": [None], "text": ["a"]},
            None,
            {"file": "x.parquet"},
            "no parquet or arrow file .* expected x.parquet",
        ),
    ],
)
def test_a_file_that_is_none_of_ours_is_one_line(tmp_path, columns, kinds, source, match):
    written(tmp_path, "parquet", columns, kinds=kinds)
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path, **source)
    assert "\n" not in str(error.value)


def test_a_compressed_arrow_file_is_refused_by_name(tmp_path):
    table = table_of({"audio": [{"bytes": stored("wav") * 9, "path": None}], "text": ["a"]}, {"audio": MEDIUM})
    write(tmp_path / "a.arrow", table, compression="zstd")
    with pytest.raises(UserError, match="a compressed arrow file has no places; .* write it without compression"):
        read(tmp_path)


def test_segments_of_embedded_recordings_share_the_origin_of_their_bytes(tmp_path):
    one, other = ({"bytes": stored("wav"), "path": "long.wav"} for _ in range(2))
    columns = {"audio": [one, one, other], "text": ["a", "b", "c"], "offset": [0.1, 0.3, 0.1], "duration": [0.1] * 3}
    for form in FORMS[:2]:
        written(tmp_path / form, form, columns)
        found = good(tmp_path / form)
        assert found[0]["origin"] == found[1]["origin"] == found[0]["group"] != found[2]["origin"]
        whole = read_audio(
            media_path(
                {**found[0], "media": {k: v for k, v in found[0]["media"].items() if k not in ("offset", "duration")}},
                {"p": tmp_path / form},
            )
        )[0]
        part = read_audio(media_path(found[1], {"p": tmp_path / form}))[0]
        assert np.array_equal(part, whole[:, 4800:6400])
        measured = [measure(each, {"p": tmp_path / form}) for each in found]
        assert len({each["media_sha256"] for each in measured}) == 3


def numbered(n):
    return {"audio": [{"bytes": b"%05d" % at * 50, "path": None} for at in range(n)], "text": ["a"] * n}


def test_rows_in_any_order_are_their_values_and_in_their_order_are_decoded_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "BATCH", 1000)
    monkeypatch.setattr(cells, "HELD", 4000)
    monkeypatch.setattr(cells, "_READERS", cells._Readers())
    path, decoded = written(tmp_path, "parquet", numbered(70), rows=30), []
    real = cells._Group.__next__
    monkeypatch.setattr(cells._Group, "__next__", lambda self: decoded.append(1) or real(self))
    for row in range(70):
        assert Cell(path, "audio.bytes", row).read_bytes() == b"%05d" % row * 50
    once = len(decoded)
    assert once < 30 and cells._READERS._held <= 4000 + 1500
    for row in np.random.default_rng(0).permutation(70).tolist():
        assert Cell(path, "audio.bytes", row).read_bytes() == b"%05d" % row * 50
    for row in (-1, 70):
        with pytest.raises(MediaError, match="a value that cannot be read"):
            Cell(path, "audio.bytes", row).read_bytes()


def test_a_row_group_beyond_the_limit_is_refused_by_name(tmp_path, monkeypatch):
    path = written(tmp_path, "parquet", numbered(70), rows=70)
    monkeypatch.setattr(cells, "LARGEST", 5000)
    match = r"a row group is too large to be read; found 1\d+ bytes in 70 rows; .* row_group_size=100"
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path)
    assert "train-00000-of-00001.parquet: audio.bytes" in str(error.value)
    with pytest.raises(MediaError, match="a row group is too large"):
        Cell(path, "audio.bytes", 1).read_bytes()


def test_bytes_stay_in_the_file_where_it_says_that_all_rows_have_them(tmp_path, monkeypatch):
    written(tmp_path, "parquet", numbered(7))
    asked = []
    real = parquet_rows._batches
    monkeypatch.setattr(
        parquet_rows, "_batches", lambda file, group, columns: asked.extend(columns) or real(file, group, columns)
    )
    good(tmp_path)
    assert set(asked) == {"text", "audio.path"}


@pytest.mark.parametrize("form", FORMS)
def test_half_a_file_costs_what_it_lost(tmp_path, form):
    data = [{"bytes": stored("png"), "path": None} for _ in range(8)]
    path = written(tmp_path, form, {"image": data, "text": ["a bell"] * 8}, rows=2)
    whole = path.read_bytes()
    kept = set()
    for share in range(1, 20):
        path.write_bytes(whole[: len(whole) * share // 20])
        try:
            items = read(tmp_path)
        except UserError as error:
            assert "\n" not in str(error) and "fetch it again" in str(error)
            continue
        assert form == "arrow" and isinstance(items[-1], Problem), share
        assert items[-1].what == "the file is damaged behind this row"
        measured = [measure(one, {"p": tmp_path}) for one in items[:-1]]
        assert all(isinstance(one, dict) for one in measured)
        kept.add(len(measured))
    assert form != "arrow" or kept >= {2, 4, 6}


def test_a_stream_that_ends_between_two_batches_is_not_whole(tmp_path):
    path = written(tmp_path, "arrow", {"image": [{"bytes": b"x", "path": None}] * 4, "text": ["a cat"] * 4}, rows=2)
    assert len(good(tmp_path)) == 4
    path.write_bytes(path.read_bytes()[:-8])  # the end mark: pyarrow takes the rest for a whole stream
    assert [getattr(one, "found", "") for one in read(tmp_path)] == [""] * 4 + ["it stops before its end mark"]


def test_a_damaged_row_group_costs_its_rows(tmp_path):
    path = written(tmp_path, "parquet", numbered(9), rows=3)
    about = cells.open_parquet(path, "a").metadata.row_group(1).column(2)
    data = bytearray(path.read_bytes())
    start = about.dictionary_page_offset or about.data_page_offset
    data[start : start + about.total_compressed_size] = bytes(about.total_compressed_size)
    path.write_bytes(data)
    items = read(tmp_path)
    bad = [at for at, one in enumerate(items) if isinstance(one, Problem)]
    assert bad == [3, 4, 5] and {items[at].what for at in bad} == {"the file is damaged here"}
    for row in (4, 5):
        with pytest.raises(MediaError, match="a value that cannot be read") as error:
            Cell(path, "text", row).read_bytes()
        assert "StopIteration" not in str(error.value)


def test_names_that_are_no_text_are_one_line(tmp_path):
    """Found by damaging arrow files at random."""
    path = written(tmp_path, "arrow", {"image": [None], "text": ["a"], "label": [1]})
    path.write_bytes(path.read_bytes().replace(b"label", b"\x80abel"))
    with pytest.raises(UserError, match="not an arrow file that can be read") as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_without_pyarrow_the_plan_says_what_to_install(tmp_path, monkeypatch):
    written(tmp_path / "d", "parquet", numbered(3))
    profile = tmp_path / "run.yaml"
    profile.write_text(
        "extends: smoke\nname: x\ncorpus:\n  on_bad_record: skip\n  sources: [{name: s, reader: parquet, path: d, "
        "file: '*.parquet', columns: {caption: [a, b], audio: c, duration: seconds}}]\n"
    )
    loaded = load_profile(str(profile))
    monkeypatch.setattr(packages, "installed", lambda package: package != "pyarrow")
    lost = [str(one) for one in missing(loaded)]
    assert lost == [
        "corpus.sources.s.reader: package pyarrow is not installed (parquet and arrow files are read with it: "
        'pip install "mmpt[readers]")'
    ]
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("mmpt.corpus.first_look.pyarrow_installed", lambda: False)
    first_look(loaded.data["corpus"]["sources"], loaded.media_roots(), "skip")
    monkeypatch.setattr(cells, "pyarrow_installed", lambda: False)
    with pytest.raises(UserError, match="package pyarrow is not installed; .* pip install"):
        read(tmp_path / "d")
