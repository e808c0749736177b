"""Reader `generated` inside stage corpus: media on disk, the same bytes every time, and the shuffled control."""

from importlib import import_module

import pytest

from mmpt.corpus.pictures import PICTURE_SIZE
from mmpt.corpus.split import s2_metrics
from mmpt.store.canonical import read_json
from mmpt.store.digests import Manifest
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext


def run(tmp_path, name="one", **source):
    profile = {
        "corpus": {
            "on_bad_record": "fail",
            "sources": [{"name": "made", "reader": "generated", "pictures": 40, "sounds": 20, **source}],
        },
        "split": {"val": 0.1, "test": 0.2},
        "codecs": {"audio": {"name": "x"}, "image": {"name": "x"}},
    }
    folders = {}
    for stage in ("corpus", "manifest", "split"):
        out = tmp_path / name / stage
        out.mkdir(parents=True)
        getattr(import_module(f"mmpt.stages.{stage}"), stage)(
            StageContext(
                stage,
                SliceView(profile, tuple(profile), stage),
                dict(folders),
                out,
                tmp_path,
                seed=5,
                threads=2,
            )
        )
        folders[stage] = out
    return folders


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return run(tmp_path_factory.mktemp("made"))


def test_records_and_media_are_there_and_measured(made):
    validate_file(made["corpus"] / "records.jsonl", "record")
    validate_file(made["manifest"] / "manifest.jsonl", "manifest_record")
    validate_file(made["split"] / "split.jsonl", "split_record")
    rows = read_jsonl(made["manifest"] / "manifest.jsonl")
    assert len(rows) == 60 and len(list((made["corpus"] / "media").rglob("*.*"))) == 60
    forms = {tuple(row["audio"][key] for key in ("channels", "rate", "samples")) for row in rows if row["audio"]}
    assert {form[:2] for form in forms} == {(1, 16_000)} and {form[2] for form in forms} <= set(
        range(3200, 16_001, 1600)
    )
    sizes = {(row["image"]["height"], row["image"]["width"]) for row in rows if row["image"]}
    assert sizes == {(PICTURE_SIZE, PICTURE_SIZE)} and not any(
        row["image"]["one_colour"] for row in rows if row["image"]
    )


def test_the_generators_split_is_kept_and_no_combination_is_torn(made):
    records = read_jsonl(made["manifest"] / "manifest.jsonl")
    rows = read_jsonl(made["split"] / "split.jsonl")
    assert [row["split"] for row in rows] == [record["split_hint"] for record in records]
    counts = [sum(row["split"] == side for row in rows) for side in ("train", "val", "test")]
    assert counts == [42, 6, 12]  # shares 0.1 and 0.2 of 40 pictures and of 20 sounds
    found = {m["name"]: m["value"] for m in read_json(made["split"] / "evidence/S2.json")["metrics"]}
    assert found["combinations_in_two_splits"] == found["official_test_in_train"] == 0
    assert found["near_duplicates_in_two_splits"] == 0
    assert {m.name for m in s2_metrics(records, rows)} == set(found) - {"near_duplicates_in_two_splits"}


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    again = run(tmp_path)
    for stage, folder in made.items():
        assert str(Manifest.of(folder)) == str(Manifest.of(again[stage]))


def test_shuffled_captions_touch_only_training_records(made, tmp_path):
    plain = read_jsonl(made["corpus"] / "records.jsonl")
    mixed = read_jsonl(run(tmp_path, shuffle_train_captions=True)["corpus"] / "records.jsonl")
    for modality in ("image", "audio"):
        pairs = [(a, b) for a, b in zip(plain, mixed, strict=True) if a["modality"] == modality]
        train = [(a, b) for a, b in pairs if a["split_hint"] == "train"]
        assert all(a == b for a, b in pairs if a["split_hint"] != "train")
        assert sorted(a["caption"] for a, _ in train) == sorted(b["caption"] for _, b in train)
        assert sum(a["caption"] != b["caption"] for a, b in train) > len(train) / 2
        assert all(a["attributes"] == b["attributes"] and a["media"] == b["media"] for a, b in train)
