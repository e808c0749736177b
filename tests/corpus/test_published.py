"""Readers of published data sets: what each layout gives, and what is said of what is wrong in it."""

import json

import pytest

from mmpt.corpus import audiocaps, clotho, llava_pretrain, musiccaps, wavcaps
from mmpt.corpus.problems import Problem
from mmpt.corpus.youtube import STEM
from mmpt.store.errors import UserError
from tests.corpus import published_folders as made

READERS = {one.__name__.rpartition(".")[2]: one.read for one in (audiocaps, clotho, llava_pretrain, musiccaps, wavcaps)}


def read(reader, folder, **options):
    return [item for _, item in READERS[reader](folder, {"name": "src", "reader": reader, **options})]


def records(reader, folder, **options):
    found = read(reader, folder, **options)
    assert not [item for item in found if isinstance(item, Problem)]
    return found


def problems(reader, folder, **options):
    return [item for item in read(reader, folder, **options) if isinstance(item, Problem)]


def edit(path, old, new, encoding="utf-8"):
    text = path.read_text(encoding)
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding)


# Clotho


def test_clotho_gives_five_records_a_recording_with_official_sides(tmp_path):
    found = records("clotho", made.clotho(tmp_path))
    assert len(found) == 5 * 10
    first = found[0]
    assert first == {
        "id": "clotho:Sound d #0, één.wav:0",
        "modality": "audio",
        "media": {"root": "src", "path": "clotho_audio_files/development/Sound d #0, één.wav"},
        "caption": "development 0 caption 0",
        "source": "clotho",
        "group": "freesound:1001",
        "category": None,
        "origin": "freesound:1001",
        "license": "http://creativecommons.org/publicdomain/zero/1.0/",
        "attributes": None,
        "mentioned": None,
        "split_hint": "train",
    }
    assert {r["origin"] for r in found[:5]} == {"freesound:1001"}
    assert [r["split_hint"] for r in found[::5]] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert found[25]["origin"] == "clotho:Sound d #5, één.wav"  # its Freesound id is "Not found"
    assert found[5]["license"] == "Freesound, by sound"


def test_clotho_without_metadata_still_reads(tmp_path):
    made.clotho(tmp_path)
    for path in tmp_path.glob("clotho_metadata_*.csv"):
        path.unlink()
    assert {r["origin"] for r in records("clotho", tmp_path)[:5]} == {"clotho:Sound d #0, één.wav"}


def test_clotho_takes_a_file_of_the_same_name_from_its_own_split(tmp_path):
    made.clotho(tmp_path)
    made.sound(tmp_path / "clotho_audio_files/evaluation/Sound d #0, één.wav", 77)
    assert records("clotho", tmp_path)[0]["media"]["path"].split("/")[1] == "development"


def test_clotho_still_packed_is_told_to_unpack(tmp_path):
    made.clotho(tmp_path)
    for path in (tmp_path / "clotho_audio_files/evaluation").iterdir():
        path.unlink()
    (tmp_path / "clotho_audio_evaluation.7z").write_bytes(b"7z")
    with pytest.raises(
        UserError, match=r"part 'evaluation'.*still packed; found archives clotho_audio_evaluation.7z.*7z x"
    ):
        read("clotho", tmp_path)


def test_clotho_names_what_is_missing(tmp_path):
    made.clotho(tmp_path)
    (tmp_path / "clotho_audio_files/development/Sound d #2, één.wav").unlink()
    edit(tmp_path / "clotho_captions_validation.csv", "validation 1 caption 3", " ")
    found = problems("clotho", tmp_path)
    assert [p.kind for p in found] == ["missing"] * 5 + ["empty_caption"]
    assert found[0].id == "clotho:Sound d #2, één.wav:0" and found[0].where == "src/clotho_captions_development.csv:4"
    assert found[-1].where == "src/clotho_captions_validation.csv:3"


def test_clotho_without_tables_or_with_another_table_is_refused(tmp_path):
    with pytest.raises(UserError, match="no clotho_captions"):
        read("clotho", tmp_path)
    made.table(tmp_path / "clotho_captions_development.csv", "file_name,caption", [["a.wav", "b"]])
    with pytest.raises(UserError, match="development.csv:1: missing column: caption_1, caption_2"):
        read("clotho", tmp_path)


# AudioCaps


def test_audiocaps_binds_every_way_to_name_a_clip(tmp_path):
    found = records("audiocaps", made.audiocaps(tmp_path))
    assert len(found) == 8 + 10 + 15
    assert [r["split_hint"] for r in found] == ["train"] * 8 + ["val"] * 10 + ["test"] * 15
    assert len({r["media"]["path"] for r in found}) == 13
    assert all(r["origin"] == f"youtube:{video}" for r, video in zip(found[:8], made.YOUTUBE, strict=False))
    assert found[7]["media"]["path"] == "audio/train/91808.flac" and found[7]["id"] == "audiocaps:91808"


def test_audiocaps_numbers_and_ids_are_never_prefixes(tmp_path):
    made.audiocaps(tmp_path)
    (tmp_path / "audio/train/91808.flac").rename(tmp_path / "audio/train/918081.flac")
    video = made.YOUTUBE[0]
    (tmp_path / f"audio/train/{video}.wav").rename(tmp_path / f"audio/train/{video}x.wav")
    assert [(p.kind, p.id) for p in problems("audiocaps", tmp_path)] == [
        ("missing", "audiocaps:91801"),
        ("missing", "audiocaps:91808"),
    ]


@pytest.mark.parametrize(
    ("stem", "video", "start"),
    [
        ("Yabcdefghij", "Yabcdefghij", None),
        ("YYabcdefghij", "Yabcdefghij", None),
        ("Yabcdefghij_3", "Yabcdefghij", "3"),
        ("Yabcdefghi_3", "abcdefghi_3", None),
        ("Yabcdefghi_3_4", "abcdefghi_3", "4"),
        ("-_abcdefgh-", "-_abcdefgh-", None),
    ],
)
def test_ids_are_read_by_position(stem, video, start):
    match = STEM.fullmatch(stem)
    assert (match["id"], match["start"]) == (video, start)


def test_audiocaps_another_cut_of_the_video_is_not_the_clip(tmp_path):
    made.audiocaps(tmp_path)
    old = next((tmp_path / "audio/train").glob(f"{made.YOUTUBE[2]}_20*"))
    old.rename(old.with_name(f"{made.YOUTUBE[2]}_50.wav"))
    assert [p.kind for p in problems("audiocaps", tmp_path)] == ["missing"]


def test_audiocaps_two_files_for_a_clip_are_named(tmp_path):
    made.audiocaps(tmp_path)
    made.sound(tmp_path / "other" / f"Y{made.YOUTUBE[0]}.wav", 5)
    (found,) = problems("audiocaps", tmp_path)
    assert found.kind == "ambiguous" and "other/Y" in found.found
    assert not problems("audiocaps", tmp_path, media="audio")


def test_audiocaps_a_whole_video_is_not_its_clip(tmp_path):
    made.audiocaps(tmp_path)
    made.sound(tmp_path / "audio/train" / f"{made.YOUTUBE[0]}.wav", 5, seconds=12)
    (found,) = problems("audiocaps", tmp_path)
    assert found.kind == "uncut" and "12.0 s" in found.found and found.expected == "10 s"


def test_audiocaps_two_versions_in_one_folder_need_a_name(tmp_path):
    made.audiocaps(tmp_path)
    made.table(tmp_path / "dataset2.0/train.csv", ",".join(audiocaps.COLUMNS), [[1, made.YOUTUBE[0], 0, "x"]])
    with pytest.raises(UserError, match="two files are called train.csv.*dataset/train.csv and dataset2.0/train.csv"):
        read("audiocaps", tmp_path)
    assert len(records("audiocaps", tmp_path, metadata="dataset2.0")) == 1


def test_audiocaps_bad_rows_are_problems_of_their_line(tmp_path):
    made.audiocaps(tmp_path)
    edit(tmp_path / "dataset/train.csv", "91801", "x1")
    (found,) = problems("audiocaps", tmp_path)
    assert (found.kind, found.where, found.what) == ("bad_line", "src/train.csv:2", "not a clip")


# WavCaps


def test_wavcaps_binds_flac_to_ids_of_each_subset(tmp_path):
    made.wavcaps(tmp_path, made.YOUTUBE[:4], [156, 201, 2010], blacklisted=(made.YOUTUBE[1], "201"))
    found = records("wavcaps", tmp_path)
    assert [r["id"] for r in found][:1] == [f"wavcaps_as:Y{made.YOUTUBE[0]}.wav"]
    assert found[0]["media"]["path"].endswith(f"AudioSet_SL_flac/Y{made.YOUTUBE[0]}.flac")
    assert [r["origin"] for r in found[4:]] == ["freesound:156", "freesound:201", "freesound:2010"]
    assert [r["split_hint"] for r in found] == [None, "test", None, None, None, "test", None]
    assert {r["source"] for r in found} == {"wavcaps_audioset", "wavcaps_freesound"}
    assert {r["license"] for r in found} == {"academic use only (WavCaps)"}


def test_wavcaps_ids_of_two_subsets_do_not_mix(tmp_path):
    made.wavcaps(tmp_path, made.YOUTUBE[:1], [7])
    made.write(tmp_path / "json_files/SoundBible/sb_final.json", {"data": [{"id": "7", "caption": "x"}]})
    made.sound(tmp_path / "SoundBible_flac/7.flac", 9)
    paths = {r["id"]: r["media"]["path"] for r in records("wavcaps", tmp_path)}
    assert paths["wavcaps_fsd:7"] == "Audio/FreeSound/7.flac"
    assert paths["wavcaps_sb:7"] == "SoundBible_flac/7.flac"


def test_wavcaps_still_packed_names_the_volumes(tmp_path):
    made.wavcaps(tmp_path, made.YOUTUBE[:2], [5])
    (tmp_path / "Audio/FreeSound/5.flac").unlink()
    for volume in ("FreeSound.z01", "FreeSound.zip"):
        made.write(tmp_path / "Zip_files/FreeSound" / volume, 0)
    with pytest.raises(UserError, match="part 'FreeSound'.*FreeSound.z01, .*unzip"):
        read("wavcaps", tmp_path)
    assert len(records("wavcaps", tmp_path, subsets=["AudioSet_SL"])) == 2


def test_wavcaps_damaged_files_are_named(tmp_path):
    made.wavcaps(tmp_path, made.YOUTUBE[:2], [5])
    made.write(
        tmp_path / "json_files/FreeSound/fsd_final.json",
        {"data": [{"caption": "x"}, {"id": 5, "caption": 3}]},
    )
    assert [(p.kind, p.where) for p in problems("wavcaps", tmp_path)] == [
        ("bad_line", "src/fsd_final.json[0]"),
        ("bad_line", "src/fsd_final.json[1]"),
    ]
    (tmp_path / "json_files/FreeSound/fsd_final.json").write_text('{"data": [')
    with pytest.raises(UserError, match="src/fsd_final.json: not JSON"):
        read("wavcaps", tmp_path)
    with pytest.raises(UserError, match="no bbc_final.json"):
        read("wavcaps", tmp_path, subsets=["BBC_Sound_Effects"])


# MusicCaps


def test_musiccaps_evaluation_clips_are_official_test(tmp_path):
    found = records("musiccaps", made.musiccaps(tmp_path))
    assert len(found) == 12 and found[1]["caption"] == 'music 1, slow and "warm"'
    assert [r["split_hint"] for r in found[:4]] == ["test", None, None, "test"]
    assert found[0]["origin"] == f"youtube:{made.YOUTUBE[20]}" and found[0]["license"].startswith("CC-BY-SA-4.0")


def test_musiccaps_like_tables_need_only_four_columns(tmp_path):
    made.sound(tmp_path / f"{made.YOUTUBE[0]}_5.wav", 1)
    made.sound(tmp_path / f"{made.YOUTUBE[0]}_65.wav", 2)
    rows = [[made.YOUTUBE[0], 5, 15, "first"], [made.YOUTUBE[0], 65, 75, "second"]]
    made.table(tmp_path / "mine.csv", "ytid,start_s,end_s,caption", rows)
    first, second = records("musiccaps", tmp_path, file="mine.csv", license="CC0-1.0")
    assert first["media"]["path"].endswith("_5.wav") and second["media"]["path"].endswith("_65.wav")
    assert first["origin"] == second["origin"] and first["license"] == "CC0-1.0" and first["source"] == "src"
    with pytest.raises(UserError, match="no musiccaps-public.csv"):
        read("musiccaps", tmp_path)


def test_musiccaps_end_before_start_or_no_column_is_refused(tmp_path):
    made.musiccaps(tmp_path)
    edit(tmp_path / "musiccaps-public.csv", ",30,40,", ",40,30,")
    assert [p.what for p in problems("musiccaps", tmp_path)] == ["not a clip"]
    edit(tmp_path / "musiccaps-public.csv", "start_s", "start")
    with pytest.raises(UserError, match="missing column: start_s"):
        read("musiccaps", tmp_path)


# LLaVA-Pretrain


@pytest.mark.parametrize("below", [".", "images"])
def test_llava_keeps_the_answer_and_drops_the_question(tmp_path, below):
    found = records("llava_pretrain", made.llava(tmp_path, below))
    assert len(found) == 12 and found[3]["caption"] == "picture 3 of something"
    assert found[0]["id"] == "llava_pretrain:000000000" and found[0]["modality"] == "image"
    assert found[0]["media"]["path"] == f"{below}/00000/000000000.jpg".removeprefix("./")
    assert {r["split_hint"] for r in found} == {None}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda item: item["conversations"].pop(), "not one question and one answer"),
        (lambda item: item["conversations"][0].update(value="Describe."), "placeholder once"),
        (lambda item: item["conversations"][1].update(value="<image> x"), "caption holds the placeholder"),
        (lambda item: item["conversations"][1].update(value=" "), "empty caption"),
        (lambda item: item.update(conversations=None), "not a conversation"),
        (lambda item: item.pop("image"), "without id or image"),
        (lambda item: item.update(image="../00000/000000000.jpg"), "leaves the corpus folder"),
        (lambda item: item.update(image="00009/gone.jpg"), "does not exist"),
    ],
)
def test_llava_bad_items_are_problems_of_their_place(tmp_path, change, what):
    made.llava(tmp_path)
    path = tmp_path / "blip_laion_cc_sbu_558k.json"
    items = json.loads(path.read_text())
    change(items[4])
    made.write(path, items)
    (found,) = problems("llava_pretrain", tmp_path)
    assert what in found.what and found.where == "src/blip_laion_cc_sbu_558k.json[4]"


def test_llava_still_packed_is_told_to_unpack(tmp_path):
    made.write(tmp_path / "blip_laion_cc_sbu_558k.json", [made.llava_item(0, "00000/000000000.jpg")])
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(UserError, match="still packed; found archives images.zip.*unzip"):
        read("llava_pretrain", tmp_path)


# All


def test_a_limit_draws_the_same_records_from_every_part(tmp_path):
    made.clotho(tmp_path)
    whole = [r["id"] for r in records("clotho", tmp_path)]
    drawn = [r["id"] for r in records("clotho", tmp_path, limit=20)]
    assert len(drawn) == 20 and drawn == [i for i in whole if i in set(drawn)]
    assert {r["split_hint"] for r in records("clotho", tmp_path, limit=20)} == {"train", "val", "test"}
    assert {r["id"] for r in records("clotho", tmp_path, limit=10)} < set(drawn)
