"""Stages split, token_space, shards and shard_audit of a profile with `inputs:`.

From an upstream run's files to the same outputs that the stages of a corpus give. Profile keys they read:

split        inputs (shards, jsonl, split, token_space), split, corpus.on_bad_record
token_space  inputs.token_space, token_space, text, base
shards       inputs (shards, jsonl, token_space), corpus.on_bad_record, shards.records_per_shard
shard_audit  shards.batch

The codecs are in `imported_codecs.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmpt.codecs import registry
from mmpt.codecs.protocol import AudioCodec, AudioCodes, ImageCodec, frames_of
from mmpt.corpus.problems import Problem, refuse
from mmpt.corpus.split import deal, s2_metrics
from mmpt.shards.audit import Findings, audit_modality, write_findings
from mmpt.shards.encode import ENCODE_ERRORS, AudioEncoder, Encoder, ImageEncoder
from mmpt.shards.text_set import open_tokenizer
from mmpt.shards.token_space import write_token_space
from mmpt.shards.tokenise import save_shard, statistics
from mmpt.shards.train_only import train_only
from mmpt.shards.upstream import Item, items_of, read_all
from mmpt.store.canonical import digest_json, write_json
from mmpt.store.digests import sha256_bytes, sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import write_evidence
from mmpt.store.jsonl import JsonLines, count_lines, iter_jsonl, write_jsonl
from mmpt.store.numbers import Labels
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES, SPLITS
from mmpt.tokens.space import FILE_NAME, SHA_NAME, TokenSpace, load, upstream_sha


def split(ctx: StageContext) -> None:
    """Puts every record on a side: split.jsonl, errors.jsonl, evidence/S2.

    Train stays train. What was held out for evaluation becomes val and test, recording by recording, in the
    shares of split.val and split.test. A held-out record whose recording is also trained on is a leak: with
    inputs.split "keep" it stays held out, and S2 tells; with "mend" it goes to train.
    """
    problems: list[Problem] = []
    space = load(_space_file(ctx))
    records = JsonLines(ctx.work / "records.jsonl")  # they are gone over several times, and not held
    items = items_of(read_all(_inputs(ctx), space), problems)
    write_jsonl(records.path, map(_split_record, items), durable=False)
    _refuse_or_log(ctx, problems)
    if not count_lines(records.path):
        raise UserError("the inputs hold no record", where="inputs", expected="shards or jsonl with records")
    val, test = ctx.profile["split.val"], ctx.profile["split.test"]
    rows = deal(records, val / (val + test), test / (val + test))
    if ctx.profile.get("inputs.split", "keep") == "keep":
        rows = map(_kept, records, rows)
    path = ctx.out / "split.jsonl"
    write_jsonl(path, rows)
    write_jsonl(ctx.out / "errors.jsonl", [problem.to_json() for problem in problems])
    subject = {"records": sha256_file(records.path), "split": sha256_file(path)}
    write_evidence(ctx.out, "S2", s2_metrics(records, JsonLines(path)), subject=subject)
    counts = Counter(row["split"] for row in JsonLines(path))
    ctx.log(", ".join(f"{counts[side]} {side}" for side in SPLITS))


def _split_record(item: Item) -> dict[str, Any]:
    """What is asked of it here. Upstream ids do not say which records are of an official test split."""
    return {
        "id": item.id,
        "modality": item.modality,
        "split_hint": "train" if item.side == "train" else None,
        "origin": item.origin,
        "content_sha256": item.content,
        "attributes": None,
    }


def _kept(record: Mapping[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A held-out record that its unit would draw into train stays held out."""
    if record["split_hint"] == "train" or row["split"] != "train":
        return row
    half = int(sha256_bytes(record["id"].encode())[:8], 16) % 2
    return {**row, "split": ("val", "test")[half], "decided_by": "hash"}


def token_space(ctx: StageContext) -> None:
    """The upstream run's token_space.json, checked against its .sha256, the tokenizer and the codecs.

    Raises:
        UserError: no .sha256 beside it, one that does not belong to it, a segment of another size.
    """
    path = _space_file(ctx)
    if not path.with_name(SHA_NAME).is_file():
        raise UserError(
            f"no {SHA_NAME} beside the token space",
            where="inputs.token_space",
            found=path.name,
            expected=f"{path.name} and {SHA_NAME}, as the run wrote them",
        )
    write_token_space(ctx, expected=str(path))


def shards(ctx: StageContext) -> None:
    """Writes the records as shards: *.safetensors, *.jsonl, errors.jsonl, stats.json."""
    space = load(ctx.inputs["token_space"])
    writer = _Writer(ctx, space, open_tokenizer(ctx.inputs["token_space"]))
    problems: list[Problem] = []
    for item in items_of(read_all(_inputs(ctx), space), problems):
        if problem := writer.add(item):
            problems.append(problem)
    _refuse_or_log(ctx, problems)
    writer.finish()
    known = [(one, place) for one in problems if one.id and (place := writer.places.get(one.id))]
    lost = Counter((modality, side) for modality, side in (place.split() for _, place in known))
    write_jsonl(ctx.out / "errors.jsonl", (one.to_json() for one, _ in known))
    write_json(ctx.out / "stats.json", statistics(ctx.out, lost, space))
    if writer.padding:
        ctx.log(f"{writer.padding} tokens were frames that pad a last chunk; they are left out")


@dataclass
class _Writer:
    """Collects records by modality and split, and writes a shard whenever one is full."""

    ctx: StageContext
    space: TokenSpace
    tokenizer: Tokenizer
    padding: int = 0
    waiting: dict[tuple[str, str], list[tuple[np.ndarray, dict[str, Any]]]] = field(default_factory=dict)
    written: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        ctx = self.ctx
        rows = iter_jsonl(ctx.inputs["split"] / "split.jsonl")
        self.places = Labels((row["id"], f"{row['modality']} {row['split']}") for row in rows)
        self.codecs = open_codecs(ctx.inputs["codecs"], ctx.device)
        self.identity = {m: codec.identity() for m, codec in self.codecs.items()}
        self.sha = upstream_sha(self.space.to_json())
        self.lengths: dict[int, int] = {}

    def add(self, item: Item) -> Problem | None:
        """Take a record; returns what is wrong with it where it cannot be taken."""
        caption, problem = self._caption(item)
        if problem:
            return problem
        if item.modality not in self.codecs:
            return _unusable(item, "no codec for its modality", item.modality, "codecs." + item.modality)
        ids, fields = self._fields(item)
        place = self.places.get(item.id)
        assert place is not None  # items are those of the manifest
        modality, side = place.split()
        key = modality, side
        self.waiting.setdefault(key, []).append((ids, self._row(item, ids, fields, caption, side)))
        if len(self.waiting[key]) == self.ctx.profile["shards.records_per_shard"]:
            self._flush(key)
        return None

    def finish(self) -> None:
        """Write what is waiting; every modality and split that has records has a shard."""
        for key in sorted(self.waiting):
            if self.waiting[key]:
                self._flush(key)

    def _flush(self, key: tuple[str, str]) -> None:
        modality, side = key
        batch, self.waiting[key] = self.waiting[key], []
        stamp = {"token_space": self.space.digest, "codec": self.identity[modality]}
        ids, rows = [one for one, _ in batch], [row for _, row in batch]
        save_shard(self.ctx.out, modality, side, self.written[key], ids, rows, stamp)
        self.written[key] += 1
        self.ctx.progress(sum(self.written.values()), 0, f"{modality} {side}")

    def _caption(self, item: Item) -> tuple[str, Problem | None]:
        """The caption's text: its ids must lie in TEXT and come back from the tokenizer unchanged."""
        try:
            ids = self.space.check_text(item.text).tolist()
        except UserError as error:
            return "", _unusable(item, error.what, str(error.found), str(error.expected))
        caption = self.tokenizer.decode(ids, skip_special_tokens=False)
        if not caption.strip():
            return "", _unusable(item, "empty caption", repr(caption), "at least one word", "empty_caption")
        if self.tokenizer.encode(caption, add_special_tokens=False).ids != ids:
            found = f"{ids[:6]} for {caption[:40]!r}"
            return "", _unusable(item, "text ids are not of this tokenizer", found, "its own ids of that text")
        return caption, None

    def _fields(self, item: Item) -> tuple[np.ndarray, dict[str, Any]]:
        if item.modality == "image":
            codec = self.codecs["image"]
            absent = dict.fromkeys(("n_codebooks", "frames", "sample_rate", "channels", "samples"))
            absent |= dict.fromkeys(("clipped", "scales", "codec_meta"))
            sizes = {"encode_size": [codec.proc_size] * 2, "decode_size": [codec.decode_size] * 2}
            return item.payload, {**absent, **sizes}
        ids, chunks = without_padding(item.payload, item.meta, self.space.n_codebooks)
        self.padding += len(item.payload) - len(ids)
        return ids, audio_fields(ids, chunks, item.meta, self.codecs["audio"], self.space, self.lengths)

    def _row(self, item: Item, ids: np.ndarray, fields: Mapping[str, Any], caption: str, side: str) -> dict[str, Any]:
        # Upstream's digest of the run's own token space is ours; any other stays as it was found.
        digest = self.space.digest if item.token_space == self.sha else item.token_space
        return {
            "id": item.id,
            "modality": item.modality,
            "split": side,
            "source": item.source,
            "group": item.origin,
            "category": None,
            "origin": item.origin,
            "license": item.license,
            "caption": caption,
            "media": {"root": "inputs", "path": item.where},
            "media_sha256": item.content,
            "attributes": None,
            "mentioned": None,
            "token_space": digest,
            "codec": self.identity[item.modality],
            "n_tokens": len(ids),
            **fields,
        }


def without_padding(ids: np.ndarray, meta: Mapping[str, Any], n_codebooks: int) -> tuple[np.ndarray, list[int] | None]:
    """(ids without the frames that pad the last chunk, frames of each chunk or None).

    Upstream stores whole chunks: of 48 kHz sounds of 10 s the last one has 15 real frames of 150.
    """
    codec = meta.get("codec_meta") or {}
    count, length, pad = (codec.get(key) for key in ("nb_frames", "frame_len", "last_frame_pad_length"))
    if not count or not length or count * length * n_codebooks != len(ids) or not 0 <= (pad or 0) < length:
        return ids, None
    chunks = [length] * (count - 1) + [length - (pad or 0)]
    return ids[: sum(chunks) * n_codebooks], chunks


def audio_fields(
    ids: np.ndarray,
    chunks: list[int] | None,
    meta: Mapping[str, Any],
    codec: AudioCodec,
    space: TokenSpace,
    lengths: dict[int, int],
) -> dict[str, Any]:
    """The sidecar fields of a sound.

    Args:
        lengths: frames -> samples that the codec decodes them to; filled as needed. A sequence does not say
            how long its sound was.
    """
    frames = len(ids) // space.n_codebooks
    scales = [float(one) for one in np.ravel((meta.get("codec_meta") or {}).get("scales") or []) if one]
    seconds = float(meta.get("clip_seconds") or 0)
    samples = round(seconds * codec.sample_rate)
    if not samples or frames_of(codec, seconds) != frames:
        samples = lengths.setdefault(frames, _decoded_length(ids, codec, space)) if frames else 0
    return {
        "n_codebooks": space.n_codebooks,
        "frames": frames,
        "sample_rate": int(meta.get("sample_rate") or codec.sample_rate),
        "channels": int(meta.get("channels") or codec.channels),
        "samples": samples,
        "clipped": None,
        "scales": scales or None,
        "codec_meta": {"chunk_frames": chunks} if chunks else {},
        "encode_size": None,
        "decode_size": None,
    }


def _decoded_length(ids: np.ndarray, codec: AudioCodec, space: TokenSpace) -> int:
    """Samples that the codec gives for these ids; 0 where they do not decode, of which S3 tells."""
    try:
        return int(codec.decode([AudioCodes(space.audio_from_global(ids))])[0].shape[1])
    except ENCODE_ERRORS:
        return 0


def shard_audit(ctx: StageContext) -> None:
    """Measures the shards for gate S3, as far as that goes without media: audit.json, evidence/S3."""
    space = load(ctx.inputs["token_space"])
    rows = JsonLines(ctx.inputs["split"] / "split.jsonl")
    sides = Labels((row["id"], row["split"]) for row in rows)
    found: dict[str, Findings] = {}
    contents, records = [], []
    for modality, codec in open_codecs(ctx.inputs["codecs"], ctx.device).items():
        expected = Labels((row["id"], row["split"]) for row in rows if row["modality"] == modality)
        found[modality], sets = audit_modality(ctx, _encoder(codec, space, modality), space, expected, media=False)
        one = found[modality]
        contents += [shards.identity for shards in sets]
        records += [shards.records for shards in sets]
        ctx.log(f"{modality}: {one.records} records, {one.decode_errors} of {one.decoded} decodes wrong")
    subject = {"shards": digest_json(contents), "token_space": space.digest}
    notes = ["imported shards: nothing was encoded again, and no reconstruction measured"]
    outside = train_only(ctx, found, chain.from_iterable(records), sides)
    write_findings(ctx, found, outside, subject, notes)


def open_codecs(folder: Path, device: str) -> dict[str, Any]:
    """Modality -> codec on the device, of those that stage codecs wrote."""
    openers = {"audio": registry.load_audio, "image": registry.load_image}
    there = (m for m in MODALITIES if (folder / m / registry.FILE_NAME).is_file())
    return {modality: openers[modality](folder / modality, device) for modality in there}


def _encoder(codec: AudioCodec | ImageCodec, space: TokenSpace, modality: str) -> Encoder:
    """What the audit decodes with; it never loads a medium."""
    if isinstance(codec, AudioCodec):
        return AudioEncoder(codec, space, {}, 0.0)
    return ImageEncoder(codec, space, {})


def _space_file(ctx: StageContext) -> Path:
    path = Path(ctx.profile["inputs.token_space"])
    return path / FILE_NAME if path.is_dir() else path


def _inputs(ctx: StageContext) -> dict[str, Any]:
    return {"shards": ctx.profile.get("inputs.shards", []), "jsonl": ctx.profile.get("inputs.jsonl", {})}


def _unusable(item: Item, what: str, found: str, expected: str, kind: str = "bad_line") -> Problem:
    return Problem(kind, item.source, item.where, item.id, what, found, expected, "mend or remove the record")


def _refuse_or_log(ctx: StageContext, problems: Sequence[Problem]) -> None:
    if ctx.profile["corpus.on_bad_record"] == "fail":
        refuse(problems, "the inputs", "errors.jsonl")
    for problem in problems[:20]:
        ctx.log(f"left out: {problem}")
