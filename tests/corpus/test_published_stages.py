"""Published data sets through stages corpus, manifest and split, to the verdicts of S1 and S2."""

import tarfile
from importlib import import_module

import pytest

from mmpt.gating import load_policy
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile
from mmpt.stages import split as split_stage
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView, StageContext
from tests.corpus import published_folders as made
from tests.corpus.parquet_files import MEDIUM, NEEDS_PYARROW, table_of, write


def profile_of(sources, modalities, mode="fail"):
    data = {key: value for key, value in load_profile("smoke").data.items() if key != "gates"}
    data["corpus"] = {"on_bad_record": mode, "sources": sources}
    data["codecs"] = {m: data["codecs"][m] for m in modalities}
    data["mixture"] = {**data["mixture"], "weights": {}}
    return data


def run(root, folders, modalities=("audio",), mode="fail", gates=(), **options):
    """The three stages on {reader: folder}; (split by id, manifest by id, verdict of S1, verdict of S2)."""
    sources = [{"name": r, "reader": r, "path": str(f), **options.get(r, {})} for r, f in folders.items()]
    profile = profile_of(sources, modalities, mode) | ({"gates": list(gates)} if gates else {})
    done = {}
    for name in ("corpus", "manifest", "split"):
        out = root / name
        out.mkdir(parents=True)
        view = SliceView(profile, tuple(profile), name)
        getattr(import_module(f"mmpt.stages.{name}"), name)(
            StageContext(name, view, dict(done), out, root / "work", external=dict(folders))
        )
        done[name] = out
    validate_file(done["corpus"] / "records.jsonl", "record")
    validate_file(done["manifest"] / "manifest.jsonl", "manifest_record")
    validate_file(done["split"] / "split.jsonl", "split_record")
    policy = load_policy(profile=profile)
    verdicts = [
        decide_evidence(policy.gate(gate), read_json(done[stage] / f"evidence/{gate}.json"), policy, "0" * 64)
        for gate, stage in (("S1", "manifest"), ("S2", "split"))
    ]
    split = {row["id"]: row["split"] for row in read_jsonl(done["split"] / "split.jsonl")}
    manifest = {row["id"]: row for row in read_jsonl(done["manifest"] / "manifest.jsonl")}
    return split, manifest, *verdicts


BUILT = {
    "clotho": made.clotho,
    "audiocaps": made.audiocaps,
    "musiccaps": made.musiccaps,
    "llava_pretrain": made.llava,
    "wavcaps": lambda root: made.wavcaps(root, made.YOUTUBE[:10], list(range(50, 60)), (made.YOUTUBE[3], "55")),
}


@pytest.mark.parametrize("reader", BUILT)
def test_each_reader_reaches_go_and_a_leak_made_on_purpose_no_go(tmp_path, reader, monkeypatch):
    modalities = ("image",) if reader == "llava_pretrain" else ("audio",)
    folders = {reader: BUILT[reader](tmp_path / "data")}
    split, manifest, s1, s2 = run(tmp_path / "one", folders, modalities)
    assert (s1.verdict, s2.verdict) == ("GO", "GO"), s1.reason + s2.reason
    official = {i for i, row in manifest.items() if row["split_hint"] == "test"}
    assert all(split[i] == "test" for i in official) and (official or reader == "llava_pretrain")

    def torn(records, val, test, alike, honest=split_stage.deal):
        """A training record turns out to be of the same recording or picture as a test record."""
        rows, found = list(honest(records, val, test, alike)), list(records)
        at = {row["split"]: i for i, row in enumerate(rows)}
        found[at["train"]]["origin"] = found[at["test"]]["origin"]
        write_jsonl(records.path, found)
        return rows

    monkeypatch.setattr(split_stage, "deal", torn)
    leaky = run(tmp_path / "two", folders, modalities)[3]
    assert leaky.verdict == "NO_GO" and [check.id for check in leaky.failing()] == ["origins"]


def test_a_split_by_caption_tears_recordings_and_trains_on_official_test(tmp_path, monkeypatch):
    def by_caption(records, val, test, alike, honest=split_stage.deal):
        sides = ("train", "val", "test")
        return [{**row, "split": sides[i % 3]} for i, row in enumerate(honest(records, val, test, alike))]

    monkeypatch.setattr(split_stage, "deal", by_caption)
    verdict = run(tmp_path / "run", {"clotho": made.clotho(tmp_path / "data")})[3]
    assert verdict.verdict == "NO_GO"
    assert {check.id for check in verdict.failing()} == {"content", "origins", "official_test", "near_duplicates"}


def test_one_recording_in_three_data_sets_is_on_the_side_of_its_official_test(tmp_path):
    made.clotho(tmp_path / "clotho")
    made.audiocaps(tmp_path / "audiocaps")
    made.wavcaps(tmp_path / "wavcaps", made.YOUTUBE[8:13], [1009, 1001, 77])
    folders = {r: tmp_path / r for r in ("wavcaps", "clotho", "audiocaps")}
    split, _, s1, s2 = run(tmp_path / "run", folders)
    assert (s1.verdict, s2.verdict) == ("GO", "GO")
    # videos 8 and 9 are AudioCaps val and 10 to 12 its test; Freesound 1009 is Clotho's evaluation,
    # 1001 its development
    assert [split[f"wavcaps_as:Y{v}.wav"] for v in made.YOUTUBE[8:13]] == ["val"] * 2 + ["test"] * 3
    assert (split["wavcaps_fsd:1009"], split["wavcaps_fsd:1001"]) == ("test", "train")


def test_skip_counts_what_is_missing_and_s1_says_no(tmp_path):
    made.audiocaps(tmp_path / "data")
    next((tmp_path / "data/audio/train").glob(f"{made.YOUTUBE[0]}*")).unlink()
    made.sound(tmp_path / "data/audio/train" / f"Y{made.YOUTUBE[1]}.flac", 1, seconds=30)
    split, _, s1, s2 = run(tmp_path / "run", {"audiocaps": tmp_path / "data"}, mode="skip")
    assert len(split) == 31 and s2.verdict == "GO" and s1.verdict == "NO_GO"
    assert {(c.id, c.value) for c in s1.failing()} == {("missing_media", 2)}


def captioned(root):
    """Reader captions: every record says that it is of another source."""
    root.mkdir(parents=True)
    rows = [{"id": f"c{i}", "audio": f"{i}.wav", "caption": "a bell", "source": "clotho"} for i in range(12)]
    for i in range(12):
        made.sound(root / f"{i}.wav", 900 + i)
    write_jsonl(root / "captions.jsonl", rows)
    return root


def tabled(root):
    """Reader table: as audiofolder, two captions per sound."""
    root.mkdir(parents=True)
    for i in range(12):
        made.sound(root / f"{i}.wav", 900 + i)
    write_jsonl(root / "metadata.jsonl", [{"file_name": f"{i}.wav", "text": ["a bell", "one bell"]} for i in range(12)])
    return root


def sharded(root):
    """Reader webdataset: two media of a shard of twelve are lost."""
    root.mkdir(parents=True)
    for i in range(12):
        made.sound(root / f"{i}.wav", 900 + i)
    (root / "3.wav").write_bytes(b"RIFF, and no more")
    with tarfile.open(root / "s.tar", "w") as tar:
        for i in range(12):
            if i != 5:
                tar.add(root / f"{i}.wav", f"{i}.wav")
            (root / "t").write_text("a bell")
            tar.add(root / "t", f"{i}.txt")
    return root


def in_rows(root):
    """Reader parquet: of twelve rows one has no medium, one a damaged one."""
    root.mkdir(parents=True)
    for i in range(12):
        made.sound(root / f"{i}.wav", 900 + i)
    media = [{"bytes": (root / f"{i}.wav").read_bytes(), "path": None} for i in range(12)]
    media[3] = {"bytes": b"RIFF, and no more", "path": None}
    media[5] = None
    write(root / "a.parquet", table_of({"audio": media, "text": ["a bell"] * 12}, {"audio": MEDIUM}), 4)
    return root


@pytest.mark.parametrize(
    "reader", [*BUILT, "captions", "table", "webdataset", pytest.param("parquet", marks=NEEDS_PYARROW)]
)
def test_a_record_that_skip_leaves_out_counts_for_the_source_that_lost_it(tmp_path, reader):
    """A medium that is gone, and one that cannot be decoded, beside a second source that loses nothing."""
    own = {"captions": captioned, "table": tabled, "webdataset": sharded, "parquet": in_rows}
    folder = {**BUILT, **own}[reader](tmp_path / "data")
    media = sorted(p for p in folder.rglob("*") if p.suffix in (".wav", ".flac", ".jpg", ".png", ".mp3"))
    media[0].unlink()
    media[-1].write_bytes(b"RIFF, and no more")
    other = "clotho" if reader == "musiccaps" else "musiccaps"
    folders = {reader: folder, other: BUILT[other](tmp_path / "other")}
    run(tmp_path / "run", folders, ("audio", "image"), mode="skip")
    metrics = read_json(tmp_path / "run/manifest/evidence/S1.json")["metrics"]
    shares = {one["slice"]: one["value"] for one in metrics if one["name"] == "lost_by_source"}
    problems = read_jsonl(tmp_path / "run/manifest/errors.jsonl")
    assert {one["kind"] for one in problems} == {"missing", "unreadable"}
    assert {one["source"] for one in problems} == {reader} and 0 < shares[reader] < 1 and shares[other] == 0


LOST = ({"gate": "S1", "check": "missing_media", "severity": "warn", "reason": "videos leave YouTube"},)


def test_lost_clips_of_a_published_set_warn_are_named_and_bounded_by_a_share(tmp_path):
    made.audiocaps(tmp_path / "data")
    clips = sorted((tmp_path / "data/audio/train").iterdir())
    clips[0].unlink()
    folders = {"audiocaps": tmp_path / "data"}
    split, _, s1, _ = run(tmp_path / "one", folders, mode="skip", gates=LOST)
    assert s1.verdict == "GO" and {c.id for c in s1.checks if c.status == "warn"} == {"missing_media"}
    share = next(c for c in s1.checks if c.id == "lost")
    assert (share.value, share.n) == (1 / (len(split) + 1), len(split) + 1)
    named = read_jsonl(tmp_path / "one/manifest/errors.jsonl")
    assert [(row["kind"], row["id"]) for row in named] == [("missing", "audiocaps:91801")]
    for clip in clips[1:7]:
        clip.unlink()
    s1 = run(tmp_path / "two", folders, mode="skip", gates=LOST)[2]
    assert s1.verdict == "NO_GO" and [c.id for c in s1.failing()] == ["lost"]


def test_fail_names_them_all_and_exits_with_2(tmp_path):
    made.audiocaps(tmp_path / "data")
    next((tmp_path / "data/audio/train").glob(f"{made.YOUTUBE[0]}*")).unlink()
    with pytest.raises(
        UserError, match="1 bad record in the corpus:\n  audiocaps/train.csv:2: record audiocaps:91801"
    ) as error:
        run(tmp_path / "run", {"audiocaps": tmp_path / "data"})
    assert error.value.exit_code == 2
