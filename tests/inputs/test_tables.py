"""Tables and captions that people have: line ends that are none, stray quotes, other encodings, empty-looking text."""

import json
import os

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.corpus import captions, clotho
from mmpt.corpus.caption_text import has_word
from mmpt.corpus.manifest import measure, s1_metrics
from mmpt.corpus.media_folder import MediaFolder
from mmpt.corpus.problems import Problem
from mmpt.corpus.tables import csv_header, csv_lines
from mmpt.store.errors import UserError


def rows(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "t.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return list(csv_lines(path, "src/t.csv", keep=("id", "caption")))


def good(lines):
    return [line.fields for line in lines if line.fields is not None]


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85"])
def test_only_line_feeds_and_carriage_returns_end_a_row(tmp_path, mark):
    (row,) = rows(tmp_path, f"id,caption\r\n1,a cat{mark}on a sofa\r\n")
    assert row.fields == {"id": "1", "caption": f"a cat{mark}on a sofa"}


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_of_a_system_ends_a_row(tmp_path, end):
    lines = rows(tmp_path, f'id,caption{end}1,"two{end}lines"{end}{end}2,b{end}')
    assert [(line.number, line.fields["id"]) for line in lines] == [(2, "1"), (5, "2")]
    assert lines[0].fields["caption"].split() == ["two", "lines"]


@pytest.mark.parametrize("stray", ['"a cat', '"a cat" sat', 'x,"a cat', '"a \\"big\\" cat"'])
@pytest.mark.parametrize("place", [0, 250, 499])
def test_a_stray_quote_costs_its_own_row(tmp_path, stray, place):
    table = [f"{i},row {i}" if i % 7 else f'{i},"row, {i}\nmore"' for i in range(500)]
    table[place] = f"{place},{stray}"
    lines = rows(tmp_path, "id,caption\n" + "\n".join(table) + "\n")
    assert [int(one["id"]) for one in good(lines)] == [i for i in range(500) if i != place]
    (bad,) = [line for line in lines if line.problem]
    at = sum(row.count("\n") + 1 for row in table[:place]) + 2
    assert bad.number == at


def test_many_stray_quotes_take_no_time(tmp_path):
    lines = rows(tmp_path, "id,caption\n" + '1,"a\n' * 3000)
    assert len(lines) == 3000 and not good(lines)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("id,caption\n1,caf\u00e9\n".encode("latin-1"), "not UTF-8 text; found byte 0xe9 in line 2"),
        ("id,caption\n1,x\n".encode("utf-16"), "not UTF-8 text; found UTF-16"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "not UTF-8 text; found gzip"),
        (b"PK\3\4\0\0\0\0", r"found zip \(xlsx\)"),
        (b"id,caption,caption\n1,a,b\n", "column named twice; found caption"),
        (b'id,"caption\n', "expected one row per line|not CSV"),
        (b"x" * (1 << 21), "line is too long"),
        (b"id,caption\n1,x\n2,caf\xe9\n", "not UTF-8 text; found byte 0xe9 in line 3"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, data, match):
    with pytest.raises(UserError, match=match) as error:
        rows(tmp_path, data)
    assert "\n" not in str(error.value)


def test_a_line_longer_than_any_row_is_one_bad_line(tmp_path):
    long = "x" * (1 << 21)
    found = rows(tmp_path, f'id,caption\n1,a\n2,{long}\n3,"{long}\n4,d\n')
    assert [(line.number, line.problem[0] if line.problem else line.fields["id"]) for line in found] == [
        (2, "1"),
        (3, "line is too long"),
        (4, "line is too long"),
        (5, "4"),
    ]


def test_null_is_an_empty_cell(tmp_path):
    """As pandas writes a table of pictures and sounds."""
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    line = {"id": "a", "image": "p.png", "audio": None, "caption": "a cat", "split": None, "license": None}
    (tmp_path / "captions.jsonl").write_text(json.dumps(line) + "\n" + json.dumps({**line, "caption": None}))
    (_, fine), (_, bad) = captions.read(tmp_path, "real")
    assert (fine["modality"], fine["split_hint"], fine["license"]) == ("image", None, "unknown")
    assert (bad.kind, bad.what) == ("missing_column", "missing caption")


@pytest.mark.parametrize("caption", ["a\0cat", "it\x92s", "a\x1b[31m cat", "x\x7f"])
def test_a_control_character_is_no_text(tmp_path, caption):
    """NUL, escapes, and cp1252 that was read as Latin-1: they would be trained on."""
    (tmp_path / "captions.jsonl").write_text(json.dumps({"id": "a", "image": "p.png", "caption": caption}) + "\n")
    ((_, item),) = captions.read(tmp_path, "real")
    assert (item.kind, item.what) == ("bad_line", "a control character in the caption") and "U+00" in item.found


def test_another_separator_is_named(tmp_path):
    (tmp_path / "captions.csv").write_text("id;image;caption\n1;p.png;a cat\n")
    with pytest.raises(UserError, match="separated by ';': save it with commas"):
        list(captions.read(tmp_path, "real"))


def test_a_mark_at_the_start_is_no_part_of_the_first_name(tmp_path):
    assert csv_header(tmp_path / "t.csv", "t") == ["id", "caption"] if rows(tmp_path, "\ufeffid,caption\n") == [] else 0
    (tmp_path / "captions.jsonl").write_text('\ufeff{"id": "a", "image": "p.png", "caption": "a cat"}\n')
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    assert [item["id"] for _, item in captions.read(tmp_path, "real")] == ["a"]


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"a":' * 5000,
        "x" * (1 << 21),
        "9" * 5000,
        '{"id": NaN}',
        "\0",
        '{"id": "a", "caption": "x", "image": "' + "a" * 300 + '.png"}',
        '{"id": "a", "caption": "x", "image": "' + "d/" * 3000 + 'p.png"}',
    ],
)
def test_an_odd_line_is_one_bad_record(tmp_path, line):
    (tmp_path / "captions.jsonl").write_text(line + '\n{"id": "b", "image": "p.png", "caption": "a cat"}\n')
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    (_, bad), (_, fine) = captions.read(tmp_path, "real")
    assert isinstance(bad, Problem) and len(str(bad)) < 600 and fine["id"] == "b"


def test_a_line_longer_than_any_record_is_told_and_costs_only_itself(tmp_path):
    long = json.dumps({"id": "a", "image": "p.png", "caption": "x" * (3 << 20)})
    (tmp_path / "captions.jsonl").write_text(long + '\n{"id": "b", "image": "p.png", "caption": "a cat"}\n')
    Image.new("RGB", (2, 2)).save(tmp_path / "p.png")
    (_, bad), (_, fine) = captions.read(tmp_path, "real")
    assert bad.what == "line is too long" and fine["id"] == "b"


LOOKS_EMPTY = ["", "\u200b", "\ufeff", "\u00ad\u2060", "\0", ".", "...", "\u3164", "\u2800", "- -"]
STANDS_FOR_NOTHING = [
    "nan",
    " NaN ",
    "None",
    "null",
    "N/A",
    "<NA>",
    "#REF!",
    "undefined",
    "<br>",
    "<p>&nbsp;</p>",
    "[removed]",
]


@pytest.mark.parametrize("caption", LOOKS_EMPTY + STANDS_FOR_NOTHING)
def test_a_caption_that_only_looks_like_one_is_empty(tmp_path, caption):
    assert not has_word(caption)
    (tmp_path / "captions.jsonl").write_text(json.dumps({"id": "a", "image": "p.png", "caption": caption}) + "\n")
    ((_, item),) = captions.read(tmp_path, "real")
    assert item.kind == "empty_caption"


SCRIPTS = ["a cat", "7", "\u72ac", "\u0643\u0644\u0628", "\U0001f436", "\u266a", "a\u200bb"]
WORDS = ["naan", "none of them", "<br>rain", "<|endoftext|>", "a < b", "R&B", "na na na"]


@pytest.mark.parametrize("caption", SCRIPTS + WORDS)
def test_a_caption_in_any_script_is_one(caption):
    assert has_word(caption)


def test_clotho_keeps_a_row_with_byte_0x85(tmp_path):
    """cp1252's ellipsis, read as ISO-8859-1: NEL, which str.splitlines takes for a line end."""
    table = "file_name,keywords,sound_id,sound_link,license\nw.wav,wind\x85howl,77,x,CC0\n"
    (tmp_path / "clotho_metadata_development.csv").write_bytes(table.encode("latin-1"))
    columns = ",".join(f"caption_{i}" for i in range(1, 6))
    (tmp_path / "clotho_captions_development.csv").write_text(f"file_name,{columns}\nw.wav,a,b,c,d,e\n")
    soundfile.write(tmp_path / "w.wav", np.zeros(8000) + 0.1, 8000)
    found = [item for _, item in clotho.read(tmp_path, {"name": "clotho"})]
    assert {item["origin"] for item in found} == {"freesound:77"} and {item["license"] for item in found} == {"CC0"}


def test_a_folder_holds_anything(tmp_path):
    """Names that are not UTF-8, pipes that nobody writes to, links in a circle, formats that are not read."""
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "up").symlink_to(tmp_path)
    (tmp_path / "b.m4a").write_bytes(b"x")
    (tmp_path / "c.opus").write_bytes(b"x")
    open(os.fsencode(tmp_path) + b"/caf\xe9.wav", "wb").close()
    media = MediaFolder.of(tmp_path)
    assert set(media.files) >= {"c.opus"} and media.to_convert() == "b.m4a"
    record = {"id": "a", "modality": "audio", "media": {"root": "r", "path": "pipe.wav"}, "caption": "x"}
    assert measure(record, {"r": tmp_path}).kind == "missing"


def test_a_lost_record_counts_for_the_source_that_it_was_read_from():
    """The field `source` of a record is any text, another source's name among it."""
    record = {"modality": "image", "media": {"root": "one"}, "source": "two", "license": "x", "audio": None}
    record["image"] = {}
    lost = {"kind": "missing", "source": "one"}
    sources = [{"name": "one", "reader": "captions"}, {"name": "two", "reader": "captions"}]
    found = {(one.name, one.slice): one.value for one in s1_metrics([record], [lost], ["image"], sources)}
    assert found["lost_by_source", "one"] == 0.5 and ("lost_by_source", "two") not in found
    assert found["sources_without_records", ""] == 1


def test_media_without_content_are_counted():
    sounds = [{"rms": 0.0, "mixed_rms": 0.0}, {"rms": 0.3, "mixed_rms": 1e-5}, {"rms": 0.3, "mixed_rms": 0.3}]
    common = {"media": {"root": "r"}, "source": "r", "license": "x"}
    records = [{**common, "modality": "audio", "audio": one, "image": None} for one in sounds]
    records += [{**common, "modality": "image", "audio": None, "image": {"one_colour": at < 1}} for at in range(4)]
    found = {one.name: one.value for one in s1_metrics(records, [], ["audio", "image"], [])}
    assert found["silent_sounds"] == found["cancelled_sounds"] == pytest.approx(1 / 3)
    assert found["one_colour_pictures"] == 0.25
