"""Reader `captions` and stages corpus, manifest: good folders become records, bad lines are all named at
once.
"""

import csv
import json
import os

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.corpus import captions
from mmpt.corpus.problems import Problem
from mmpt.stages.corpus import corpus
from mmpt.stages.manifest import manifest
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext


@pytest.fixture
def folder(tmp_path):
    """A source folder with pictures p0..p4 and sounds s0..s2, without captions."""
    root = tmp_path / "source"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i in range(5):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).save(root / f"p{i}.png")
    for i in range(3):
        soundfile.write(root / f"s{i}.flac", rng.standard_normal(800) * 0.1, 8000)
    return root


def rows():
    return [
        {"id": "a", "image": "p0.png", "caption": "a  red\n circle ", "source": "emoji", "group": "shapes"},
        {
            "id": "b",
            "audio": "s0.flac",
            "caption": "a bell",
            "license": "CC0-1.0",
            "split": "test",
            "origin": "freesound:7",
        },
        {"id": "c", "image": "p1.png", "caption": "zwei rote Kreise: größer"},
    ]


def write(folder, lines, name="captions.jsonl"):
    (folder / name).write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def read(folder, **options):
    return [item for _, item in captions.read(folder, "real", **options)]


def context(tmp_path, name, folder, inputs=(), mode="fail", modalities=("audio", "image")):
    profile = {
        "corpus": {
            "on_bad_record": mode,
            "sources": [{"name": "real", "reader": "captions", "path": str(folder)}],
        },
        "split": {"val": 0.2, "test": 0.2},
        "codecs": {m: {"name": "x"} for m in modalities},
    }
    out = tmp_path / "out" / name
    out.mkdir(parents=True)
    return StageContext(
        name,
        SliceView(profile, tuple(profile), name),
        {i: tmp_path / "out" / i for i in inputs},
        out,
        tmp_path / "work",
        external={"real": folder},
        threads=2,
    )


def run(tmp_path, folder, mode="fail", modalities=("audio", "image")):
    """Stages corpus and manifest; (manifest rows, problems, S1 metrics by name and slice)."""
    corpus(context(tmp_path, "corpus", folder, mode=mode))
    manifest(context(tmp_path, "manifest", folder, ["corpus"], mode, modalities))
    out = tmp_path / "out"
    validate_file(out / "corpus/records.jsonl", "record")
    validate_file(out / "corpus/errors.jsonl", "error")
    validate_file(out / "manifest/manifest.jsonl", "manifest_record")
    validate_file(out / "manifest/errors.jsonl", "error")
    evidence = read_json(out / "manifest/evidence/S1.json")
    metrics = {(m["name"], m["slice"]): m["value"] for m in evidence["metrics"]}
    return read_jsonl(out / "manifest/manifest.jsonl"), read_jsonl(out / "manifest/errors.jsonl"), metrics


def test_lines_become_records(folder):
    write(folder, rows())
    a, b, c = read(folder, license="MIT")
    assert a == {
        "id": "a",
        "modality": "image",
        "media": {"root": "real", "path": "p0.png"},
        "caption": "a red circle",
        "source": "emoji",
        "group": "real/p0.png",
        "category": "shapes",
        "origin": "real/p0.png",
        "license": "MIT",
        "attributes": None,
        "mentioned": None,
        "split_hint": None,
    }
    assert (b["modality"], b["origin"], b["group"], b["license"], b["split_hint"]) == (
        "audio",
        "freesound:7",
        "freesound:7",
        "CC0-1.0",
        "test",
    )
    assert c["source"] == "real" and c["caption"].endswith("größer")


def test_csv_says_the_same_as_jsonl(folder):
    write(folder, rows())
    from_jsonl = read(folder)
    (folder / "captions.jsonl").unlink()
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(
            stream, ["id", "image", "audio", "caption", "source", "group", "origin", "license", "split"]
        )
        writer.writeheader()
        writer.writerows(rows())
    assert read(folder) == from_jsonl


def test_all_captions_of_one_medium_share_its_origin(folder):
    write(
        folder,
        [{"id": f"b{i}", "audio": "./s0.flac", "caption": f"a bell {i}", "group": f"g{i}"} for i in range(5)],
    )
    assert {record["origin"] for record in read(folder)} == {"real/s0.flac"}


def test_a_limit_takes_the_first_lines(folder):
    write(folder, rows())
    assert [record["id"] for record in read(folder, limit=2)] == ["a", "b"]


BAD = [
    ('{"id": "x", ', "bad_line", "not JSON"),
    ("[1]", "bad_line", "not a JSON object"),
    ('{"id": "x", "image": "p0.png", "caption": "y", "caption": "z"}', "bad_line", "field given twice"),
    ({"id": "x", "image": "p2.png"}, "missing_column", "missing caption"),
    ({"image": "p2.png", "caption": "y"}, "missing_column", "missing id"),
    ({"id": "x", "caption": "y"}, "missing_column", "missing image or audio"),
    ({"id": "x", "image": "p2.png", "audio": "s1.flac", "caption": "y"}, "bad_line", "both image and audio"),
    ({"id": "x", "image": 3, "caption": "y"}, "bad_line", "image is not text"),
    ({"id": " ", "image": "p2.png", "caption": "y"}, "bad_line", "empty id"),
    ({"id": "x", "image": "p2.png", "caption": " \t"}, "empty_caption", "empty caption"),
    ({"id": "x", "image": "p9.png", "caption": "y"}, "missing", "does not exist"),
    ({"id": "x", "image": "../secret.png", "caption": "y"}, "outside", "leaves the corpus folder"),
    ({"id": "x", "image": "/etc/passwd", "caption": "y"}, "outside", "leaves the corpus folder"),
    ({"id": "x", "image": "p2.png", "caption": "y", "split": "dev"}, "bad_line", "unknown split"),
]


@pytest.mark.parametrize(("line", "kind", "what"), BAD)
def test_each_bad_line_is_one_problem_with_its_place(folder, line, kind, what):
    write(folder, [rows()[0], "", line, rows()[2]])
    first, problem, last = read(folder)
    assert isinstance(problem, Problem) and problem.kind == kind and what in problem.what
    assert problem.where == "real/captions.jsonl:3" and all((problem.found, problem.expected, problem.fix))
    assert (first["id"], last["id"]) == ("a", "c")


def test_bad_csv_is_named_by_line(folder):
    text = 'id,image,caption\na,p0.png,"two\nlines"\nb,p1.png\nc,p2.png,\nd,"p3.png"x,y\ne,p4.png,good\n'
    (folder / "captions.csv").write_text(text)
    a, b, c, d, e = read(folder)
    assert a["caption"] == "two lines" and e["id"] == "e"
    assert (b.where, b.what, b.found, b.expected) == (
        "real/captions.csv:4",
        "wrong number of columns",
        "2",
        "3",
    )
    assert (c.where, c.kind) == ("real/captions.csv:5", "empty_caption")
    assert (d.where, d.what) == ("real/captions.csv:6", "not CSV")


@pytest.mark.parametrize(
    ("header", "missing"),
    [("id,image", "caption"), ("image,caption", "id"), ("id,caption", "image or audio"), ("", "id, caption")],
)
def test_a_csv_without_a_needed_column_is_refused(folder, header, missing):
    (folder / "captions.csv").write_text(header + "\n")
    with pytest.raises(UserError, match=f"real/captions.csv:1: missing column: {missing}"):
        read(folder)


def test_no_captions_file_or_two_are_refused(folder, tmp_path):
    with pytest.raises(UserError, match="no captions file.*captions.jsonl or captions.csv"):
        read(folder)
    write(folder, rows())
    (folder / "captions.csv").write_text("id,image,caption\n")
    with pytest.raises(UserError, match="two captions files"):
        read(folder)
    with pytest.raises(UserError, match="folder does not exist"):
        read(tmp_path / "nowhere")


def test_a_good_folder_is_measured_and_counted(tmp_path, folder):
    write(folder, rows())
    manifest, problems, metrics = run(tmp_path, folder)
    assert not problems and [row["id"] for row in manifest] == ["a", "b", "c"]
    assert manifest[0]["image"] == {"height": 6, "width": 6, "one_colour": False} and manifest[0]["audio"] is None
    sound = manifest[1]["audio"]
    assert (sound["channels"], sound["rate"], sound["samples"]) == (1, 8000, 800)
    assert sound["rms"] == sound["mixed_rms"] == pytest.approx(0.1, rel=0.2)
    assert metrics["records", "audio"] == 1 and metrics["records", "image"] == 2
    assert metrics["records_by_source", "emoji"] == 1 and metrics["records_by_licence", "CC0-1.0"] == 1
    assert sum(value for (name, _), value in metrics.items() if not name.startswith("records")) == 0


def test_a_modality_with_a_codec_but_without_records_is_counted_as_none(tmp_path, folder):
    write(folder, [rows()[0]])
    assert run(tmp_path, folder)[2]["records", "audio"] == 0


def test_a_modality_without_a_codec_is_not_asked_for(tmp_path, folder):
    write(folder, rows())
    assert ("records", "audio") not in run(tmp_path, folder, modalities=("image",))[2]


def spoiled(folder):
    """One of everything that can be wrong with a record, among good ones."""
    (folder / "p2.png").write_bytes(b"not a picture")
    (folder / "s1.flac").write_bytes(b"")
    write(
        folder,
        [
            *rows(),
            {"id": "a", "image": "p3.png", "caption": "again"},
            {"id": "d", "image": "p4.png", "caption": " "},
            {"id": "e", "image": "p9.png", "caption": "gone"},
            {"id": "f", "image": "../x.png", "caption": "out"},
            {"id": "g", "image": "p2.png", "caption": "broken"},
            {"id": "h", "audio": "s1.flac", "caption": "nothing"},
            "{",
        ],
    )


def test_fail_lists_all_bad_records_in_one_error_and_writes_nothing(tmp_path, folder):
    spoiled(folder)
    with pytest.raises(UserError) as error:
        run(tmp_path, folder)
    text = str(error.value)
    assert text.startswith("7 bad records in the corpus:") and error.value.exit_code == 2
    for said in (
        "real/captions.jsonl:4: record a: duplicate id",
        "the first is at real/captions.jsonl:1",
        "real/captions.jsonl:5: record d: empty caption",
        "real/captions.jsonl:6: record e: image file does not exist",
        "real/captions.jsonl:7: record f: media path leaves the corpus folder",
        "real/captions.jsonl:10: not JSON",
        "real/p2.png: record g: not a readable picture",
        "real/s1.flac: record h: file is empty",
        "on_bad_record: skip",
    ):
        assert said in text
    assert os.listdir(tmp_path / "out/corpus") == []


def test_a_damaged_file_alone_also_fails(tmp_path, folder):
    write(folder, [*rows(), {"id": "g", "image": "p2.png", "caption": "broken"}])
    (folder / "p2.png").write_bytes(b"not a picture")
    with pytest.raises(UserError, match="1 bad record in the corpus:\n  real/p2.png: record g: not a readable picture"):
        run(tmp_path, folder)
    assert os.listdir(tmp_path / "out/manifest") == []


def test_skip_leaves_them_out_and_counts_each_kind(tmp_path, folder):
    spoiled(folder)
    manifest, problems, metrics = run(tmp_path, folder, mode="skip")
    assert [row["id"] for row in manifest] == ["a", "b", "c"] and len(problems) == 7
    kinds = (
        "missing_media",
        "unreadable_media",
        "empty_media",
        "empty_captions",
        "duplicate_ids",
        "paths_outside_corpus",
        "bad_lines",
    )
    assert [metrics[kind, ""] for kind in kinds] == [1] * 7


def test_what_is_wrong_in_the_same_way_is_one_line(tmp_path, folder):
    """A table of other names: twenty lines told the same twenty times."""
    write(folder, [{"file_name": "p1.png", "text": "a"} for _ in range(30)])
    with pytest.raises(UserError) as error:
        run(tmp_path, folder)
    assert str(error.value).count("missing id, caption, image or audio") == 1 and "(and 29 alike)" in str(error.value)
    assert "let reader `table` read the file" in str(error.value) and "more" not in str(error.value)


def test_after_twenty_the_rest_is_a_number(tmp_path, folder):
    write(folder, [{"id": f"x{i}", "image": f"gone{i}.png", "caption": "gone"} for i in range(23)])
    with pytest.raises(UserError) as error:
        run(tmp_path, folder)
    assert str(error.value).count("does not exist") == 20 and "and 3 more" in str(error.value)


def test_a_corpus_without_one_good_record_is_refused(tmp_path, folder):
    write(folder, [{"id": "x", "image": "p9.png", "caption": "gone"}])
    with pytest.raises(UserError, match="no usable record.*1 bad records"):
        run(tmp_path, folder, mode="skip")


def test_the_same_folder_elsewhere_gives_the_same_bytes(tmp_path, folder):
    write(folder, rows())
    run(tmp_path / "one", folder)
    folder.rename(tmp_path / "moved")
    run(tmp_path / "two", tmp_path / "moved")
    for name in ("corpus/records.jsonl", "manifest/manifest.jsonl", "manifest/evidence/S1.json"):
        assert (tmp_path / "one/out" / name).read_bytes() == (tmp_path / "two/out" / name).read_bytes()


@pytest.mark.parametrize(("wrong", "right"), [("spilt", "split"), ("licence", "license"), ("captoin", "caption")])
def test_a_misspelt_field_is_not_an_unknown_one(folder, wrong, right):
    """`spilt: test` left unread is a test record that is trained on."""
    row = {"id": "a", "image": "p0.png", "caption": "x"}
    row.pop(right, None)
    write(folder, [{**row, wrong: "test"}])
    (problem,) = read(folder)
    assert isinstance(problem, Problem) and (problem.found, problem.expected.split(",")[0]) == (wrong, right)


def test_a_data_set_may_have_fields_of_its_own(folder):
    own = {"captions": ["x"], "source_id": "7", "width": 3, "images": []}
    write(folder, [{"id": "a", "image": "p0.png", "caption": "x", **own}])
    assert read(folder)[0]["id"] == "a"


@pytest.mark.parametrize("field", ["id", "caption", "source", "image", "own"])
def test_half_a_surrogate_pair_is_a_bad_line_and_no_crash(tmp_path, folder, field):
    """JSON can spell it, and no file of ours can hold it."""
    row = {"id": "a", "image": "p0.png", "caption": "x"}
    write(folder, [{**row, field: f"{row.get(field, '')}\ud800"}, {**row, "id": "b", "caption": "\u00fc \U0001f600"}])
    manifest, (left_out,), _ = run(tmp_path / "one", folder, mode="skip")
    assert (left_out["kind"], left_out["what"]) == ("bad_line", "half of a surrogate pair")
    assert left_out["found"].endswith("\\ud800") and [one["id"] for one in manifest] == ["b"]


def test_a_name_that_no_file_can_have_is_a_bad_line_and_no_crash(folder):
    write(folder, [{"id": "a", "image": "p\0.png", "caption": "x"}])
    (problem,) = read(folder)
    assert (problem.kind, problem.what) == ("missing", "no file can be read under this name")
