"""Reader `table`: the layouts of imagefolder, audiofolder and NeMo, columns of any name, several captions a medium."""

import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.corpus import table
from mmpt.corpus.problems import Problem
from mmpt.corpus.source_tables import is_table, tables
from mmpt.profile import load_profile
from mmpt.store.errors import UserError


def media(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("RGB", (2, 2)).save(path)
        else:
            soundfile.write(path, np.zeros(800) + 0.1, 8000)


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows))


def read(folder, **source):
    return list(table.read(folder, {"name": "mine", **source}))


def good(folder, **source):
    found = [item for _, item in read(folder, **source)]
    assert not [str(one) for one in found if isinstance(one, Problem)]
    return found


def test_imagefolder_and_audiofolder_with_their_splits(tmp_path):
    media(tmp_path, "train/a.png", "validation/b.png", "test/c.wav")
    write(tmp_path / "train/metadata.csv", "file_name,text\na.png,a cat\n")
    write(tmp_path / "validation/metadata.jsonl", [{"file_name": "b.png", "text": "a dog", "boxes": [1, 2]}])
    write(tmp_path / "test/metadata.jsonl", [{"file_name": "c.wav", "text": "a bell"}])
    write(tmp_path / ".cache/metadata.csv", "file_name,text\nnone.png,no\n")
    told = ("modality", "caption", "split_hint")
    found = {one["id"]: (one["media"]["path"], *(one[key] for key in told)) for one in good(tmp_path)}
    assert found == {
        "mine:test/c.wav": ("test/c.wav", "audio", "a bell", "test"),
        "mine:train/a.png": ("train/a.png", "image", "a cat", "train"),
        "mine:validation/b.png": ("validation/b.png", "image", "a dog", "val"),
    }


def test_nemo_manifests(tmp_path):
    media(tmp_path, "audio/a.wav", "audio/b.wav")
    write(tmp_path / "train_manifest.json", [{"audio_filepath": "audio/a.wav", "duration": 0.1, "text": "one"}])
    absolute = str(tmp_path / "audio/b.wav")
    write(tmp_path / "dev_manifest.json", [{"audio_filepath": absolute, "offset": 0.0, "text": "two"}])
    found = good(tmp_path, file="*_manifest.json")
    assert [(one["media"]["path"], one["split_hint"]) for one in found] == [
        ("audio/b.wav", "val"),
        ("audio/a.wav", "train"),
    ]
    write(tmp_path / "dev_manifest.json", [{"audio_filepath": "/etc/passwd", "text": "two"}])
    ((where, bad),) = read(tmp_path, file="dev_manifest.json")
    assert (where, bad.kind) == ("mine/dev_manifest.json:1", "outside")


COLUMNS = {
    "audio": "clip",
    "caption": ["en", "fr"],
    "id": "nr",
    "split": "set",
    "origin": "session",
    "group": "speaker",
    "license": "terms",
    "category": "kind",
}
ROW = {
    "clip": "a.wav",
    "en": "a bell",
    "fr": "une cloche",
    "nr": 7,
    "set": "Validation",
    "session": "s1",
    "speaker": 3,
    "terms": "CC0",
    "kind": "bells",
    "offset": "unused",
}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_columns_of_any_name(tmp_path, form):
    media(tmp_path, "a.wav")
    rows = [ROW] if form == "jsonl" else ",".join(ROW) + "\n" + ",".join(map(str, ROW.values())) + "\n"
    write(tmp_path / f"t.{form}", rows)
    first, second = good(tmp_path, file=f"t.{form}", columns={**COLUMNS, "offset": "start"})
    assert (first["id"], first["caption"], second["id"], second["caption"]) == ("7:0", "a bell", "7:1", "une cloche")
    assert all(first[key] == second[key] for key in ("origin", "group", "media", "split_hint"))
    told = [first[key] for key in ("origin", "group", "license", "category", "split_hint")]
    assert told == ["s1", "mine/3", "CC0", "bells", "val"]


def test_a_list_is_several_captions_and_an_empty_one_of_several_is_none(tmp_path):
    media(tmp_path, "a.png")
    write(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": ["a cat", "", "a tabby", None]}])
    assert [one["caption"] for one in good(tmp_path)] == ["a cat", "a tabby"]
    write(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "caption": "a cat", "text": "page 3"}])
    assert [one["caption"] for one in good(tmp_path)] == ["a cat"], "two names of one thing are no two captions"
    for nothing in ("", [], ["", None], " "):
        write(tmp_path / "metadata.jsonl", [{"file_name": "a.png", "text": nothing}])
        ((_, bad),) = read(tmp_path)
        assert bad.kind in ("empty_caption", "missing_column"), nothing


@pytest.mark.parametrize(
    ("row", "kind", "what"),
    [
        ({"file_name": "no.png", "text": "x"}, "missing", "image file does not exist"),
        ({"file_name": "../a.png", "text": "x"}, "outside", "media path leaves the corpus folder"),
        ({"text": "x"}, "missing_column", "missing"),
        ({"file_name": "a.png"}, "missing_column", "missing caption"),
        ({"file_name": "a.png", "text": 3}, "bad_line", "caption is not text"),
        ({"file_name": 3, "text": "x"}, "missing_column", "missing"),
        ({"file_name": "a.png", "text": "x", "split": "holdout"}, "bad_line", "unknown split"),
        ({"file_name": "a.png", "text": "x", "id": True}, "bad_line", "id is not text"),
        ({"file_name": "", "text": "x"}, "missing_column", "missing"),
    ],
)
def test_a_bad_line_is_one_bad_record_in_the_words_of_reader_captions(tmp_path, row, kind, what):
    media(tmp_path, "a.png")
    write(tmp_path / "metadata.jsonl", [row, {"file_name": "a.png", "text": "fine"}])
    (_, bad), (_, fine) = read(tmp_path)
    assert isinstance(bad, Problem) and bad.kind == kind and bad.what.startswith(what), bad
    assert fine["caption"] == "fine"


@pytest.mark.parametrize(
    ("text", "source", "match"),
    [
        (
            "path,words\na.png,x\n",
            {},
            r"no column for audio or image and caption; found path, words; .* name it",
        ),
        ("file_name;text\n", {}, "separated by ';': save it with commas"),
        ("", {"file": "other.csv"}, "no table below the source's folder; .* expected other.csv"),
    ],
)
def test_a_table_that_is_none_is_one_line(tmp_path, text, source, match):
    write(tmp_path / "metadata.csv", text)
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path, **source)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("path", "side"),
    [
        ("train/metadata.csv", "train"),
        ("metadata.csv", None),
        ("en/dev-clean.jsonl", "val"),
        ("test/train.csv", None),
        ("latest/attestation.csv", None),
        ("Evaluation/m.csv", "test"),
    ],
)
def test_a_split_is_taken_from_words_and_never_guessed(tmp_path, path, side):
    assert table.side_of(tmp_path.__class__(path)) == side


def test_tables_that_all_say_train_leave_the_split_to_the_profile(tmp_path):
    media(tmp_path, "train/a.png", "b.png")
    write(tmp_path / "train/metadata.csv", "file_name,text\na.png,a cat\n")
    assert [one["split_hint"] for one in good(tmp_path)] == [None]
    write(tmp_path / "train/metadata.csv", "file_name,text,split\na.png,a cat,train\n")
    assert [one["split_hint"] for one in good(tmp_path)] == ["train"], "a column says what it says"
    write(tmp_path / "metadata.csv", "file_name,text\nb.png,a dog\n")
    write(tmp_path / "train/metadata.csv", "file_name,text\na.png,a cat\n")
    assert [one["split_hint"] for one in good(tmp_path)] == [None, "train"]


def test_the_profile_takes_it_and_its_tables_are_known(tmp_path):
    profile = tmp_path / "run.yaml"
    text = (
        "extends: smoke\nname: x\ncorpus:\n  on_bad_record: skip\n  sources:\n    - {name: s, reader: table, path: ., "
    )
    profile.write_text(text + "file: 'm[1].csv', columns: {caption: [a, b], audio: c}}\n")
    source = load_profile(str(profile)).data["corpus"]["sources"][0]
    assert is_table("x/m[1].csv", tables(source)) and not is_table("x/n.csv", tables(source))
    profile.write_text(text + "columns: {captoin: a}}\n")
    with pytest.raises(UserError, match="captoin"):
        load_profile(str(profile))
