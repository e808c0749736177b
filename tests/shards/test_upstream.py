"""Reading the reference run's files: what each gives, and what is said of a damaged one."""

import json
import tarfile

import numpy as np
import pytest

from mmpt.codecs import encodec
from mmpt.corpus.problems import Problem
from mmpt.shards.imported import audio_fields, without_padding
from mmpt.shards.stored import stored_audio
from mmpt.shards.upstream import Item, between, origin_of, read_all, read_sequences, read_tars
from mmpt.store.errors import UserError
from mmpt.tokens.formats import build
from mmpt.tokens.space import build_token_space
from tests.codecs.conftest import encodec_folder  # noqa: F401  (a fixture)
from tests.shards.upstream_run import write_sample

SPACE = build_token_space(
    base_text_model="tiny",
    text_vocab_size=50,
    n_special=16,
    image_tokenizer={"codebook_size": 12},
    audio_codec={"n_codebooks": 2, "codebook_size": 6},
)
AUDIO = SPACE.audio_to_global(np.array([[1, 2, 3], [4, 5, 0]]))


def sample(name="clotho:a.wav:0", **changes):
    about = {
        "id": name,
        "source": "clotho",
        "task": "a2t",
        "token_space_sha256": "f" * 64,
        "tokens": {"text_in": 0, "text_out": 3, "audio": 6, "image": 0},
        "meta": {"audio": {"n_frames": 3}, "source_meta": {"license_hint": "Clotho"}},
    }
    return {**about, **changes}, {"task": "a2t", "text": [1, 2, 3], "ids": AUDIO}


def write(folder, *samples, side="train"):
    path = folder / side / "shard-000000.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, (about, arrays) in enumerate(samples):
            write_sample(archive, f"{key:08d}", about, arrays)
    return path


def read(folder):
    return [one for _, one in read_tars(folder, "set")]


def test_a_sample_becomes_an_item(tmp_path):
    write(tmp_path, sample(), sample("clotho:a.wav:1"))
    write(tmp_path, sample("audiocaps:7"), side="eval")
    first, second, held = read(tmp_path)
    assert (first.id, first.source, first.modality, first.side) == (
        "clotho:a.wav:0",
        "clotho",
        "audio",
        "train",
    )
    assert first.payload.tolist() == AUDIO.tolist() and first.text.tolist() == [1, 2, 3]
    assert first.token_space == "f" * 64 and first.meta == {"n_frames": 3} and first.license == "Clotho"
    assert first.where == "set/train/shard-000000.tar#00000000" and held.side == "eval"
    assert first.origin == second.origin == "clotho:a.wav" and first.content == held.content


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("clotho:a b: c.wav:4", "clotho:a b: c.wav"),
        ("wavcaps_as:Y8wF-eZOypiI.wav", "youtube:8wF-eZOypiI"),
        ("wavcaps_fsd:1234", "freesound:1234"),
        ("audiocaps:91918", "audiocaps:91918"),
        ("llava_pretrain:57174", "llava_pretrain:57174"),
    ],
)
def test_an_id_tells_its_recording(name, origin):
    assert origin_of(name) == origin


def arrays(**changes):
    return {**sample()[1], **changes}


BAD = [
    ((sample()[0], arrays(ids=None)), "missing", "audio.npy is missing"),
    ((sample()[0], arrays(text=None)), "missing", "text_out.npy is missing"),
    ((sample()[0], arrays(ids=np.array([{}], object))), "unreadable", "audio.npy cannot be read"),
    ((sample()[0], arrays(ids=AUDIO[:4])), "unreadable", "audio.npy is not what its .json says"),
    (
        (sample(id=None)[0] | {"id": "x", "tokens": {}}, arrays(ids=AUDIO.reshape(2, 3))),
        "unreadable",
        "not what",
    ),
]


@pytest.mark.parametrize(("bad", "kind", "what"), BAD)
def test_a_bad_sample_is_one_problem_and_the_next_is_read(tmp_path, bad, kind, what):
    write(tmp_path, bad, sample("audiocaps:7"))
    problem, good = read(tmp_path)
    assert isinstance(problem, Problem) and (problem.kind, good.id) == (kind, "audiocaps:7")
    assert what in problem.what and problem.where == "set/train/shard-000000.tar#00000000"


def test_a_json_that_is_none_is_named(tmp_path):
    path = write(tmp_path, sample())
    path.write_bytes(path.read_bytes().replace(b'{"id"', b'{{"id', 1))
    (problem,) = read(tmp_path)
    assert problem.kind == "bad_line" and problem.id is None


@pytest.mark.parametrize("cut", [512, 1024, 1400, 5000])
def test_a_truncated_archive_is_refused(tmp_path, cut):
    path = write(tmp_path, *(sample(f"audiocaps:{i}") for i in range(8)))
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[: len(whole) - cut])
    with pytest.raises(UserError, match=r"set/train/shard-000000.tar: truncated or not a tar"):
        read(tmp_path)


def test_an_archive_cut_between_two_members_is_refused_too(tmp_path):
    path = write(tmp_path, sample(), sample("audiocaps:7"))
    with tarfile.open(path) as archive:
        second = archive.getmember("00000001.json").offset
    path.write_bytes(path.read_bytes()[:second])
    with pytest.raises(UserError, match="no end mark"):
        read(tmp_path)


def test_a_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"inputs.shards.set: no shards there.*train/shard-\*.tar"):
        read(tmp_path)


def line(task, name="audiocaps:7", text=(1, 2), payload=AUDIO, **more):
    ids = build(SPACE, task, list(text), payload).input_ids.tolist()
    return {"id": name, "task": task, "source": "audiocaps", "input_ids": ids, **more}


def write_lines(path, *lines):
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return path


def test_sequences_of_both_directions_are_one_record(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", line("a2t"), line("t2a"), line("i2t", "llava:1", payload=[70, 71]))
    inputs = {"jsonl": {"train": [path], "eval": [write_lines(tmp_path / "e.jsonl")]}}
    first, picture = [one for _, one in read_all(inputs, SPACE)]
    assert isinstance(first, Item) and first.payload.tolist() == AUDIO.tolist() and first.text.tolist() == [1, 2]
    assert first.token_space is None and picture.modality == "image" and picture.payload.tolist() == [70, 71]


def test_one_id_with_two_contents_is_a_problem(tmp_path):
    path = write_lines(tmp_path / "s.jsonl", line("a2t"), line("t2a", text=(3,)))
    inputs = {"jsonl": {"train": [path], "eval": []}}
    _, problem = [one for _, one in read_all(inputs, SPACE)]
    assert problem.kind == "duplicate_id" and "other tokens than at s.jsonl:1" in problem.found


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ("{", "not a sequence"),
        ({"id": "x"}, "not a sequence"),
        ({"id": "x", "input_ids": ["a"]}, "not a sequence"),
        ({"id": "x", "input_ids": [[1], [2]]}, "not ids"),
        ({"id": "x", "input_ids": [1, 2, 3]}, "not one medium and one text"),
    ],
)
def test_a_bad_line_is_one_problem_with_its_number(tmp_path, bad, what):
    path = write_lines(tmp_path / "s.jsonl", line("a2t"), bad)
    problem = [one for _, one in read_sequences(path, "train", SPACE)][1]
    assert what in problem.what and problem.where == "s.jsonl:2"


def test_between_takes_the_first_pair_and_needs_both_marks():
    ids = np.array([9, 1, 5, 6, 2, 1, 7, 2])
    assert between(ids, 1, 2).tolist() == [5, 6] and between(ids, 1, 8) is None and between(ids, 8, 2) is None
    assert between(np.array([2, 1, 5]), 1, 2) is None


def test_padding_frames_go_and_the_rest_decodes_as_the_codec_encoded_it(encodec_folder):  # noqa: F811  (a fixture)
    """48 kHz, 1.5 s: the reference stores two whole chunks of 150 frames, the second half padding."""
    codec = encodec.create({"path": str(encodec_folder("48k"))})
    space = build_token_space(
        base_text_model="t",
        text_vocab_size=8,
        n_special=16,
        image_tokenizer=None,
        audio_codec={"n_codebooks": 4, "codebook_size": 64},
    )
    wave = (np.random.default_rng(0).standard_normal((2, 72_000)) * 0.1).astype(np.float32)
    (coded,) = codec.encode([wave])
    lengths = coded.meta["chunk_frames"]
    pad = 150 - lengths[-1]
    whole = np.concatenate([coded.codes, np.zeros((4, pad), np.int32)], axis=1)
    meta = {
        "clip_seconds": 1.5,
        "sample_rate": 48_000,
        "channels": 2,
        "codec_meta": {
            "nb_frames": 2,
            "frame_len": 150,
            "last_frame_pad_length": pad,
            "scales": [[[scale]] for scale in coded.scales],
        },
    }
    ids, chunks = without_padding(space.audio_to_global(whole), meta, 4)
    assert chunks == lengths and ids.tolist() == space.audio_to_global(coded.codes).tolist()
    fields = audio_fields(ids, chunks, meta, codec, space, {})
    assert fields["samples"] == 72_000 and fields["frames"] == sum(lengths)
    (ours,) = codec.decode([stored_audio(space, ids, fields)])
    (theirs,) = codec.decode([coded])
    assert np.array_equal(ours, theirs)
