"""Generated inputs of any size for scale.py: rows that hold their schemas, and small real media.

    corpus      n records over 2,000 tiny files (half wav of 0.05 s, half png of 16 x 16): each record's file is opened
                and decoded, but files repeat
    manifest    n records, every second one a sound; five captions per recording, one picture in fifty stored twice
                under another origin, one origin in ten an official test item
    table       a manifest of NeMo: n segments of 2,000 recordings
    webdataset  tars of 10,000 samples: a sound of 100 bytes and a caption
    parquet     files of 50,000 rows in groups of 100: a sound of 100 bytes and a caption
    token_space a byte-level BPE of 2,000 ids, trained on a thousand captions; and codecs, folders that say that there
                are codecs (those of scale_codecs.py stand for them)
    sequences   an upstream run: n sequences in two files, one in ten held out; five captions per recording
    long        a thousand records of n / 10 tokens each, in ten shards
    project     a doit project of one stage that writes n shard records, or n files

All are functions of (folder, n), and the same bytes every time.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.bench import scale_rows
from mmpt.bench.build_graphs import DODO
from mmpt.bench.scale_codecs import free_ids
from mmpt.bench.scale_rows import (
    CODEBOOK,
    CODEBOOKS,
    DIGEST,
    IMAGE_CODES,
    caption,
    manifest_row,
    record,
    shard_row,
)
from mmpt.corpus.fingerprints import LENGTHS, Fingerprints
from mmpt.store.canonical import write_json
from mmpt.store.jsonl import write_jsonl
from mmpt.store.tasks import MODALITIES

REPO = Path(__file__).resolve().parents[2]
FILES, SAMPLES, ROWS = 2_000, 10_000, 50_000


def make_corpus(folder: Path, n: int) -> None:
    """folder/media and folder/corpus/{records,errors}.jsonl."""
    _make_media(folder / "media")
    (folder / "corpus").mkdir()
    write_jsonl(folder / "corpus" / "records.jsonl", (_on_a_file(index) for index in range(n)))
    write_jsonl(folder / "corpus" / "errors.jsonl", [])


def _on_a_file(index: int) -> dict[str, Any]:
    row = record(index)
    name = f"{index % FILES}.{'wav' if row['modality'] == 'audio' else 'png'}"
    return {**row, "media": {"root": "made", "path": name}}


def _make_media(folder: Path) -> None:
    import soundfile
    from PIL import Image

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(FILES):
        if index % 2 == 0:
            soundfile.write(folder / f"{index}.wav", rng.standard_normal(800) * 0.1, 16_000, subtype="PCM_16")
        else:
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.png")


def make_table(folder: Path, n: int) -> None:
    """folder/table: a manifest and recordings, which no reader opens."""
    (folder / "table").mkdir()
    for index in range(FILES):
        (folder / "table" / f"{index}.flac").write_bytes(_sound(index))
    rows = (
        {"audio_filepath": f"{at % FILES}.flac", "offset": at // FILES * 2.5, "duration": 2.5, "text": caption(at)}
        for at in range(n)
    )
    write_jsonl(folder / "table" / "manifest.jsonl", rows)


def make_webdataset(folder: Path, n: int) -> None:
    """folder/webdataset: tars whose sounds no reader opens."""
    (folder / "webdataset").mkdir()
    for start in range(0, n, SAMPLES):
        with tarfile.open(folder / "webdataset" / f"{start // SAMPLES:05d}.tar", "w") as tar:
            for index in range(start, min(n, start + SAMPLES)):
                for suffix, data in (("flac", _sound(index)), ("txt", caption(index).encode())):
                    info = tarfile.TarInfo(f"{index:08d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def make_parquet(folder: Path, n: int) -> None:
    """folder/parquet: files whose sounds no reader opens."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "parquet").mkdir()
    medium = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for start in range(0, n, ROWS):
        rows = range(start, min(n, start + ROWS))
        sounds = pa.array([{"bytes": _sound(at), "path": f"{at}.flac"} for at in rows], medium)
        table = pa.table({"audio": sounds, "text": [caption(at) for at in rows]})
        pq.write_table(table, folder / "parquet" / f"{start // ROWS:05d}.parquet", row_group_size=100)


def _sound(index: int) -> bytes:
    return f"{index:0100d}".encode()


def make_manifest(folder: Path, n: int) -> None:
    """folder/manifest/manifest.jsonl and fingerprints.safetensors: media that are all different."""
    write_jsonl(folder / "manifest" / "manifest.jsonl", map(manifest_row, range(n)))
    rng, fingerprints = np.random.default_rng(0), Fingerprints()
    for index in range(n):
        modality = manifest_row(index)["modality"]
        row = np.clip(rng.normal(0, 25, LENGTHS[modality]), -127, 127)
        fingerprints.add(modality, row.astype(np.int8))
    fingerprints.save(folder / "manifest")


def make_shard_records(folder: Path, n: int) -> None:
    """folder/shard_records.jsonl."""
    write_jsonl(folder / "shard_records.jsonl", map(shard_row, range(n)))


def make_token_space(folder: Path, n: int) -> None:
    """folder/token_space and folder/codecs, whatever n is."""
    from mmpt.codecs.contract import CONTRACT
    from mmpt.codecs.registry import FILE_NAME
    from mmpt.shards.token_space import train_tokenizer
    from mmpt.tokens.space import build_token_space

    for modality in MODALITIES:
        write_json(folder / "codecs" / modality / FILE_NAME, {})
        write_json(folder / "codecs" / modality / CONTRACT, {"tried": ["sizes"], "broken": {}})
        write_jsonl(folder / "codecs" / modality / "fitted_on.jsonl", [])
    lines = [caption(index) for index in range(1000)]
    train_tokenizer(lines, 2000, folder / "token_space" / "tokenizer")
    (folder / "token_space" / "text_train.txt").write_text("\n".join(lines))
    audio, image = {"n_codebooks": CODEBOOKS, "codebook_size": CODEBOOK}, {"codebook_size": IMAGE_CODES}
    build_token_space(
        base_text_model="made",
        text_vocab_size=2000,
        n_special=64,
        image_tokenizer=image,
        audio_codec=audio,
    ).save(folder / "token_space")


def make_sequences(folder: Path, n: int) -> None:
    """folder/sequences/{train,eval}.jsonl: sequences of stage 3, medium first; payloads differ by recording."""
    from tokenizers import Tokenizer

    from mmpt.tokens.formats import build
    from mmpt.tokens.space import load, upstream_sha

    space = load(folder / "token_space")
    mark = {"source": "made", "token_space_sha256": upstream_sha(space.to_json())}
    tokenizer = Tokenizer.from_file(str(folder / "token_space" / "tokenizer" / "tokenizer.json"))
    ids = {modality: free_ids(modality, space) for modality in MODALITIES}

    def sequence(index: int) -> dict[str, Any]:
        row = record(index)
        payload, place = ids[row["modality"]].copy(), int(row["origin"].rsplit("/", 1)[1])
        low, size = (
            (space.audio_ranges[0].start, CODEBOOK) if index % 2 == 0 else (space.ranges["IMAGE"].start, IMAGE_CODES)
        )
        for digit in range(4):  # another one for each recording
            payload[digit * CODEBOOKS] = low + place // size**digit % size
        text = tokenizer.encode(row["caption"], add_special_tokens=False).ids
        task = "a2t" if row["modality"] == "audio" else "i2t"
        return {"id": row["id"], "input_ids": build(space, task, text, payload).input_ids.tolist(), **mark}

    for side, held in (("train", False), ("eval", True)):
        some = (index for index in range(n) if (index // 2 // 5 % 10 == 0) == held)
        write_jsonl(folder / "sequences" / f"{side}.jsonl", map(sequence, some))


def make_long_shards(folder: Path, n: int) -> None:
    """folder/long: 100 n tokens."""
    from mmpt.shards.tokenise import save_shard

    (folder / "long").mkdir()
    stamp = {"token_space": DIGEST + "1", "codec": DIGEST + "2"}
    for index in range(10):
        ids = [np.full(n // 10, number, np.int32) for number in range(100)]
        rows = [{**shard_row(2 * number + 1), "n_tokens": n // 10} for number in range(100)]
        save_shard(folder / "long", "audio", "train", index, ids, rows, stamp)


BODIES = """
from bodies.rows import shard_row
from mmpt.store.jsonl import write_jsonl

N = {n}


def records(ctx):
    for start in range(0, N, 50_000):
        rows = map(shard_row, range(start, min(start + 50_000, N)))
        write_jsonl(ctx.out / f"{{start // 50_000:05d}}.jsonl", rows, durable=False)


def files(ctx):
    for index in range(N):
        (ctx.out / f"{{index:07d}}.bin").write_bytes(index.to_bytes(8, "big"))
"""

TABLE = """
from mmpt.build.declaration import Output, Stage

STAGES = (Stage("made", "bench", "bodies.stages:{body}", outputs=(Output("{glob}", {schema!r}),)),)
"""


def lay_project(folder: Path, n: int, body: str) -> Path:
    """A doit project whose one stage writes `n` shard records in files of 50,000 (`body` "records"), or `n` files of
    8 bytes ("files"); returns its folder.
    """
    glob, schema = ("*.jsonl", "shard_record") if body == "records" else ("*.bin", None)
    profile = {"name": "bench", "seed": 1, "runtime": {"device": "cpu", "dtype": "float32", "threads": 1}}
    root = folder / f"project_{body}"
    gates = [one for one in (REPO / "gates").iterdir() if one.suffix in (".py", ".yaml", ".json")]
    for name, text in {
        "dodo.py": DODO,
        "bench.yaml": json.dumps(profile),
        "bodies/__init__.py": "",
        "bodies/table.py": TABLE.format(body=body, glob=glob, schema=schema),
        "bodies/rows.py": Path(scale_rows.__file__).read_text(),  # recorded results count as code of mmpt.bench
        "bodies/stages.py": BODIES.format(n=n),
        **{f"gates/{one.name}": one.read_text() for one in gates},
        "pyproject.toml": (REPO / "pyproject.toml").read_text(),
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip("\n"))
    return root
