"""The shard audit finds what is wrong: a defect put into real shards must show in its own metric."""

import shutil

import numpy as np
import pytest
from PIL import Image

from mmpt.shards.shard_set import ShardSet
from mmpt.store.canonical import read_json, write_json
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.tensors import load_tensors, read_meta, save_tensors
from tests.gating.gate_evidence import failing, judged, undecided
from tests.shards.world import BODIES, World

NOISE = np.random.default_rng(0)
BAD = (
    "ids_out_of_segment",
    "length_mismatches",
    "digest_mismatches",
    "reencode_mismatch_rate",
    "reencode_items_missing",
    "records_in_wrong_split",
    "records_unaccounted",
    "records_twice",
    "decode_errors",
    "compare_items_missing",
    "contract_rules_broken",
    "codec_fit_items_outside_train",
    "encode_failure_rate",
)


def measured(folder) -> dict[tuple[str, str], dict]:
    return {(one["slice"], one["name"]): one for one in read_json(folder / "evidence" / "S3.json")["metrics"]}


@pytest.fixture
def hurt(world, folder) -> World:
    """A copy of the world, to be damaged."""
    for stage in BODIES:
        shutil.copytree(world.path(stage), folder / stage)
    return World(folder, world.profile, {})


def rewrite(world: World, stem: str, change) -> None:
    """Apply ``change(ids, offsets, header)`` in place to one shard."""
    path = world.path("shards") / f"{stem}.safetensors"
    tensors, header = load_tensors(path), read_meta(path)
    arrays = {name: np.array(array) for name, array in tensors.items()}
    change(arrays["ids"], arrays["offsets"], header)
    save_tensors(path, arrays, header)


def found(world: World) -> dict[tuple[str, str], float]:
    out = world.run("shard_audit", world.root / "audited")
    validate_file(out / "audit.json", "audit")
    return {key: one["value"] for key, one in measured(out).items()}


def verdict(world: World):
    return judged("S3", read_json(world.root / "audited" / "evidence" / "S3.json"))


def audio_ids(world: World) -> int:
    """How many there are in all splits."""
    shards = [ShardSet.open(world.path("shards"), "audio", split) for split in ("train", "val", "test")]
    return sum(len(one.ids(index)) for one in shards for index in range(len(one)))


def bad_names(values: dict) -> set[str]:
    return {f"{part} {name}" for (part, name), value in values.items() if name in BAD and value}


def test_sounds_that_were_cut_to_the_clip_are_told(hurt):
    """The gate passes and warns: the end of a recording is in no token, and its caption may describe it."""
    assert 0.5 < found(hurt)["audio", "cut_share"] < 1  # up to a second of sound, half a second heard
    assert [one.id for one in verdict(hurt).checks if one.status == "warn"] == ["cut"]
    for path in hurt.path("shards").glob("audio-*.jsonl"):
        path.write_text(path.read_text().replace('"clipped":true', '"clipped":false'))
    assert found(hurt)["audio", "cut_share"] == 0
    assert verdict(hurt).verdict == "GO" and not [one for one in verdict(hurt).checks if one.status == "warn"]


def test_sound_shards_have_nothing_wrong(world):
    metrics = measured(world.path("shard_audit"))
    values = {key: one["value"] for key, one in metrics.items()}
    assert not bad_names(values) and values["", "base_text_captions_outside_train"] == 0
    assert values["audio", "reconstruction_margin"] > 0 and values["image", "reconstruction_margin"] > 0
    assert {(part, name) for part in ("audio", "image") for name in (*BAD, "reconstruction_margin")} <= set(metrics)
    assert (
        metrics["audio", "ids_out_of_segment"]["n"] == audio_ids(world)
        and metrics["image", "reencode_mismatch_rate"]["n"] == 90
    )
    assert metrics["image", "decode_errors"]["n"] == 32
    assert values["image", "psnr_db"] == pytest.approx(values["image", "reconstruction_margin"] + 14.0)
    validate_file(world.path("shard_audit") / "audit.json", "audit")
    assert judged("S3", read_json(world.path("shard_audit") / "evidence" / "S3.json")).verdict == "GO"


def test_an_id_outside_its_segment(hurt):
    def change(ids, offsets, header):
        ids[3] = hurt.space.ranges["AUDIO_CB0"].start  # position 3 belongs to codebook 1

    rewrite(hurt, "audio-train-00001", change)
    values = found(hurt)
    assert failing(verdict(hurt)) >= {"segments [audio]"} and verdict(hurt).verdict == "NO_GO"
    assert values["audio", "ids_out_of_segment"] == 1 and values["image", "ids_out_of_segment"] == 0
    (named, *_) = read_json(hurt.root / "audited" / "audit.json")["audio"]["offenders"]
    assert (
        named["check"] == "ids_out_of_segment"
        and named["id"] == ShardSet.open(hurt.path("shards"), "audio", "train").record(16)["id"]
    )


def test_ids_that_no_codec_could_decode_are_counted_not_raised(hurt):
    def change(ids, offsets, header):
        ids[::2], ids[1::2] = ids[1::2].copy(), ids[::2].copy()  # codebooks 0 and 1 change places

    for path in hurt.path("shards").glob("audio-*.safetensors"):
        rewrite(hurt, path.stem, change)
    values = found(hurt)
    assert values["audio", "decode_errors"] == 32 and values["audio", "ids_out_of_segment"] == audio_ids(hurt)
    assert failing(verdict(hurt)) >= {"segments [audio]", "decode [audio]"}


def test_a_wrong_length(hurt):
    path = hurt.path("shards") / "audio-val-00000.jsonl"
    rows = read_jsonl(path)
    rows[0]["frames"] += 1
    write_jsonl(path, rows)
    assert bad_names(found(hurt)) == {"audio length_mismatches"}
    assert failing(verdict(hurt)) == {"lengths [audio]"}


def test_a_record_and_a_header_of_another_token_space(hurt):
    path = hurt.path("shards") / "image-test-00000.jsonl"
    rows = read_jsonl(path)
    rows[5]["token_space"] = "0" * 64
    write_jsonl(path, rows)
    rewrite(hurt, "audio-test-00000", lambda ids, offsets, header: header.update(token_space="f" * 64))
    values = found(hurt)
    assert bad_names(values) == {"image digest_mismatches", "audio digest_mismatches"}
    assert values["image", "digest_mismatches"] == values["audio", "digest_mismatches"] == 1
    assert failing(verdict(hurt)) == {"digests [audio]", "digests [image]"}


def test_ids_that_are_not_what_the_codec_gives(hurt):
    def change(ids, offsets, header):
        start, size = hurt.space.image_range.start, hurt.space.image_range.size
        ids[:] = start + (ids - start + 1) % size  # legal, but another picture

    rewrite(hurt, "image-train-00000", change)
    values = found(hurt)
    assert bad_names(values) == {"image reencode_mismatch_rate"}
    assert values["image", "reencode_mismatch_rate"] == pytest.approx(16 / 90)
    assert "reencode [image]" in failing(verdict(hurt))


def test_a_medium_that_is_gone_is_missing_from_the_items(hurt):
    record = ShardSet.open(hurt.path("shards"), "image", "val").record(0)
    (hurt.path("corpus") / record["media"]["path"]).unlink()
    values = found(hurt)
    assert values["image", "reencode_items_missing"] == 1 and values["audio", "reencode_items_missing"] == 0
    assert values["image", "decode_errors"] == 0
    assert verdict(hurt).verdict == "CANNOT_DECIDE" and "reencode_items [image]" in undecided(verdict(hurt))


def test_a_sound_that_decodes_to_another_length(hurt):
    for split in ("train", "val", "test"):
        for path in hurt.path("shards").glob(f"audio-{split}-*.jsonl"):
            write_jsonl(path, [{**row, "samples": row["samples"], "sample_rate": 24_000} for row in read_jsonl(path)])
    values = found(hurt)
    assert bad_names(values) == {"audio decode_errors"} and values["audio", "decode_errors"] == 32
    assert values["audio", "reconstruction_margin"] is None
    assert failing(verdict(hurt)) == {"decode [audio]"}


def test_a_codec_fitted_on_test_items(hurt):
    path = hurt.path("codecs") / "image" / "fitted_on.jsonl"
    tested = next(row["id"] for row in read_jsonl(hurt.path("split") / "split.jsonl") if row["split"] == "test")
    write_jsonl(path, [*read_jsonl(path), {"id": tested}])
    assert bad_names(found(hurt)) == {"image codec_fit_items_outside_train"}
    assert failing(verdict(hurt)) == {"codec_fit [image]"}


def test_a_test_caption_in_the_base_text(hurt):
    caption = ShardSet.open(hurt.path("shards"), "image", "test").record(0)["caption"]
    with open(hurt.path("token_space") / "text_train.txt", "a") as stream:
        stream.write(caption.upper() + "\n")
    values = found(hurt)
    assert not bad_names(values) and values["", "base_text_captions_outside_train"] == 1
    assert failing(verdict(hurt)) == {"base_text"}


def test_media_that_are_not_what_the_codes_say_are_badly_reconstructed(hurt):
    """Every picture is another one now: the codes decode, but not to what they are compared with."""
    for split in ("train", "val", "test"):
        for record in ShardSet.open(hurt.path("shards"), "image", split).records:
            noise = 255 * NOISE.integers(0, 2, (8, 8, 3), dtype=np.uint8)  # in blocks, which a smaller size keeps
            Image.fromarray(noise.repeat(8, 0).repeat(8, 1)).save(hurt.path("corpus") / record["media"]["path"])
    values = found(hurt)
    assert values["image", "reconstruction_margin"] < 0 and values["image", "compare_items_missing"] == 0
    assert failing(verdict(hurt)) >= {"reencode [image]", "reconstruction [image]", "gain [image]"}


def test_a_decode_without_its_medium_is_no_comparison(hurt):
    for split in ("train", "val", "test"):
        for record in ShardSet.open(hurt.path("shards"), "image", split).records:
            (hurt.path("corpus") / record["media"]["path"]).unlink()
    values = found(hurt)
    assert values["image", "compare_items_missing"] == 32 and values["image", "decode_errors"] == 0
    assert verdict(hurt).verdict == "CANNOT_DECIDE"
    assert {"compared_items [image]", "reconstruction [image]"} <= undecided(verdict(hurt))


def lose(hurt, modality, split, change):
    """Rewrite the records of the split stage, so that shards hold other records than they should."""
    path = hurt.path("split") / "split.jsonl"
    ids = {record["id"] for record in ShardSet.open(hurt.path("shards"), modality, split).records}
    write_jsonl(path, change(read_jsonl(path), ids))


def test_records_that_are_missing_from_the_shards_are_counted_whatever_errors_jsonl_says(hurt):
    manifest = read_jsonl(hurt.path("manifest") / "manifest.jsonl")
    sound = next(record for record in manifest if record["modality"] == "audio")
    lost = [{**sound, "id": f"lost/{number}"} for number in range(20)]
    write_jsonl(hurt.path("manifest") / "manifest.jsonl", [*manifest, *lost])
    lose(hurt, "audio", "val", lambda rows, ids: [*rows, *({**rows[0], "id": one["id"]} for one in lost)])
    known = [{"id": one["id"], "kind": "encode"} for one in (*lost[:15], sound)]
    write_jsonl(hurt.path("shards") / "errors.jsonl", known)
    values = found(hurt)
    assert values["audio", "encode_failure_rate"] == 0.25 and values["image", "encode_failure_rate"] == 0
    assert values["audio", "records_unaccounted"] == 5
    assert failing(verdict(hurt)) == {"failures [audio]", "accounted [audio]"}


def test_a_shard_that_was_lost_is_in_no_error(hurt):
    stem = hurt.path("shards") / "audio-train-00002"
    lost = len(read_jsonl(stem.with_suffix(".jsonl")))
    for suffix in (".safetensors", ".jsonl"):
        stem.with_suffix(suffix).unlink()
    values = found(hurt)
    assert bad_names(values) == {"audio records_unaccounted", "audio encode_failure_rate"}
    assert values["audio", "records_unaccounted"] == lost > 0 and "accounted [audio]" in failing(verdict(hurt))


def test_records_of_two_shards_are_there_twice(hurt):
    folder = hurt.path("shards")
    for suffix in (".safetensors", ".jsonl"):
        shutil.copyfile(folder / f"image-val-00000{suffix}", folder / f"image-val-00001{suffix}")
    values = found(hurt)
    assert bad_names(values) == {"image records_twice"} and failing(verdict(hurt)) == {"twice [image]"}


def test_a_record_in_the_shard_of_another_split(hurt):
    moved = []

    def change(rows, ids):
        moved.append(min(ids))
        return [{**row, "split": "test"} if row["id"] == moved[0] else row for row in rows]

    lose(hurt, "image", "train", change)
    assert bad_names(found(hurt)) >= {"image records_in_wrong_split"}
    assert "sides [image]" in failing(verdict(hurt))
    offenders = read_json(hurt.root / "audited" / "audit.json")["image"]["offenders"]
    assert {"id": moved[0], "check": "wrong_split", "found": "train, expected test"} in offenders


def test_a_codec_that_is_not_the_one_of_the_token_space(hurt):
    from mmpt.store.errors import UserError

    path = hurt.path("codecs") / "audio" / "codec.json"
    write_json(path, {**read_json(path), "identity": "0" * 64})
    with pytest.raises(UserError, match="the audio codec is not the one of the token space"):
        found(hurt)
