"""The shards stage: encode every record of the split, shard by shard, and continue at the missing shards.

work/audio-train-00003.safetensors, .jsonl, .done.json     a shard is complete when .done.json is there,
                                                           whether this process or a worker wrote it
out/  = work/ without the .done.json, plus errors.jsonl and stats.json
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.corpus.keys import Keys
from mmpt.corpus.split_check import sides_by_id
from mmpt.shards.earlier import Earlier
from mmpt.shards.encode import Encoded, Encoder, Failed, Record, encode_records
from mmpt.shards.lines import Lines, Picked
from mmpt.shards.shard_set import ShardSet, shard_name
from mmpt.store.canonical import read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.store.stage import StageContext
from mmpt.store.tasks import MODALITIES, SPLITS
from mmpt.store.tensors import save_tensors
from mmpt.tokens.space import TokenSpace

_COPIED = (
    "id",
    "modality",
    "source",
    "group",
    "category",
    "origin",
    "license",
    "caption",
    "media",
    "attributes",
    "mentioned",
)


@dataclass(frozen=True)
class Shard:
    """One shard to write: its records, in their final order, read from the manifest when it is written."""

    modality: str
    split: str
    index: int
    records: Sequence[Record]

    @property
    def name(self) -> str:
        return shard_name(self.modality, self.split, self.index)


def plan(
    records: Lines, sides: Iterable[Record], per_shard: int, modalities: Sequence[str] = MODALITIES
) -> list[Shard]:
    """Deal the records into shards in manifest order; a record that the split leaves out is in none.

    No record is held in memory: only its place in the manifest, a key of its id and two bytes.

    Args:
        records: the manifest.
        sides: rows of the split.
        per_shard: largest number of records of a shard.
        modalities: records of other modalities are left out.
    """
    ids, dealt, kinds = Keys(), bytearray(), bytearray()
    for row in sides:
        ids.add(row["id"])
        dealt.append(SPLITS.index(row["split"]))
    for record in records:
        ids.add(record["id"])
        kinds.append(MODALITIES.index(record["modality"]))
    side, _ = sides_by_id(ids, np.frombuffer(dealt, np.int8))
    kind, shards = np.frombuffer(kinds, np.int8), []
    for modality in (one for one in MODALITIES if one in modalities):
        for split in SPLITS:
            part = np.flatnonzero((kind == MODALITIES.index(modality)) & (side == SPLITS.index(split)))
            for index, start in enumerate(range(0, len(part), per_shard)):
                rows = part[start : start + per_shard]
                shards.append(Shard(modality, split, index, Picked(records, rows)))
    return shards


def tokenise(
    ctx: StageContext,
    shards: Sequence[Shard],
    encoders: Mapping[str, Encoder],
    space: TokenSpace,
    batch: int,
    earlier: Mapping[str, Earlier],
) -> None:
    """Write those of ``shards`` that ``ctx.work`` lacks. Records that ``earlier`` shards hold are not encoded again.

    Args:
        encoders, earlier: by modality.
        batch: number of media that are encoded at once.
    """
    total, before = sum(len(shard.records) for shard in shards), 0
    for shard in shards:
        if not done(ctx.work, shard):
            encoder = encoders[shard.modality]
            on_done = partial(_progress, ctx, before, total, shard.name)
            records = list(shard.records)
            known = [earlier[shard.modality].find(record) for record in records]
            new = [record for record, one in zip(records, known, strict=True) if one is None]
            encoded = iter(encode_records(encoder, new, batch, on_done, ctx.threads))
            results = [next(encoded) if one is None else one for one in known]
            _write(ctx.work, shard, records, results, space, encoder, len(records) - len(new))
        else:
            ctx.log(f"{shard.name}: already there")
        before += len(shard.records)
        ctx.progress(before, total, shard.name)


def done(folder: Path, shard: Shard) -> bool:
    """Whether a work folder holds the complete shard."""
    return _done(folder, shard).is_file()


def _progress(ctx: StageContext, before: int, total: int, name: str, done: int) -> None:
    ctx.progress(before + done, total, name)


def _write(
    folder: Path,
    shard: Shard,
    records: Sequence[Record],
    results: Sequence[Encoded | Failed],
    space: TokenSpace,
    encoder: Encoder,
    taken: int,
) -> None:
    kept = [(record, one) for record, one in zip(records, results, strict=True) if isinstance(one, Encoded)]
    failed = [(record, one) for record, one in zip(records, results, strict=True) if isinstance(one, Failed)]
    stamp = {"token_space": space.digest, "codec": encoder.identity}
    rows = [{**_describe(record, shard.split), **one.fields, **stamp, "n_tokens": len(one.ids)} for record, one in kept]
    header = {**stamp, "cut": encoder.cut, "starts": encoder.starts, "order": encoder.stream.order}
    save_shard(folder, shard.modality, shard.split, shard.index, [one.ids for _, one in kept], rows, header)
    errors = [
        {
            "id": record["id"],
            "kind": "encode",
            "source": record["source"],
            "what": one.error,
            "where": "{root}/{path}".format(**record["media"]),
        }
        for record, one in failed
    ]
    write_json(_done(folder, shard), {"errors": errors, "taken": taken})


def save_shard(
    folder: Path,
    modality: str,
    split: str,
    index: int,
    ids: Sequence[np.ndarray],
    rows: Sequence[Record],
    stamp: Mapping[str, Any],
) -> None:
    """Write one shard and its sidecar.

    Args:
        ids: int32 [n] of each record.
        rows: the sidecar's lines (schema shard_record), in the same order.
        stamp: for the header: digests of token space and codec, and what a later run needs to take records over.
    """
    flat = np.concatenate([np.zeros(0, np.int32), *ids])
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    header = {
        **stamp,
        "modality": modality,
        "split": split,
        "shard": index,
        "n": len(ids),
        "content": hashlib.sha256(flat.tobytes() + offsets.tobytes()).hexdigest(),
    }
    path = folder / f"{shard_name(modality, split, index)}.safetensors"
    save_tensors(path, {"ids": flat, "offsets": offsets}, header)
    write_jsonl(path.with_suffix(".jsonl"), rows)


def _describe(record: Record, split: str) -> dict[str, Any]:
    described = {key: record.get(key) for key in _COPIED}
    for key in ("group", "origin", "license"):
        described[key] = described[key] or ""
    return {**described, "split": split, "media_sha256": record["media_sha256"]}


def _done(folder: Path, shard: Shard) -> Path:
    return folder / f"{shard.name}.done.json"


def gather(ctx: StageContext, shards: Sequence[Shard], space: TokenSpace) -> None:
    """Copy all shards to ``ctx.out`` and write errors.jsonl and stats.json.

    Shards are copied, not linked: an edit of a published shard must not reach the copy that a rebuild resumes from.

    Raises:
        UserError: no record of a modality could be encoded.
    """
    errors: list[dict[str, Any]] = []
    lost: Counter[tuple[str, str]] = Counter()
    taken = 0
    for shard in shards:
        finished = read_json(_done(ctx.work, shard))
        failed = finished["errors"]
        taken += finished["taken"]
        errors += failed
        lost[shard.modality, shard.split] += len(failed)
    _refuse_nothing(ctx, shards, lost)
    for shard in shards:
        for suffix in (".safetensors", ".jsonl"):
            shutil.copyfile(ctx.work / f"{shard.name}{suffix}", ctx.out / f"{shard.name}{suffix}")
    write_jsonl(ctx.out / "errors.jsonl", errors)
    write_json(ctx.out / "stats.json", statistics(ctx.out, lost, space))
    ctx.info(records_taken=taken)
    if taken:
        ctx.log(f"{taken} of {sum(len(shard.records) for shard in shards)} records were tokenised before")
    if errors:
        ctx.log(
            f"{len(errors)} records failed to encode, see errors.jsonl; the first: "
            f"{errors[0]['id']}: {errors[0]['what']}"
        )


def _refuse_nothing(ctx: StageContext, shards: Sequence[Shard], lost: Mapping[tuple[str, str], int]) -> None:
    """Raise UserError if every record of a modality failed: then the codec or the media folder is at fault."""
    for modality in MODALITIES:
        concerned = [shard for shard in shards if shard.modality == modality]
        planned = sum(len(shard.records) for shard in concerned)
        if planned and planned == sum(lost[modality, split] for split in SPLITS):
            first = read_json(_done(ctx.work, concerned[0]))["errors"][0]
            raise UserError(
                f"no {modality} record could be encoded",
                where=first["where"],
                found=first["what"],
                fix="look at corpus and codecs of the profile",
            )


def statistics(folder: Path, lost: Mapping[tuple[str, str], int], space: TokenSpace) -> dict[str, Any]:
    """Counts, lengths and codebook use by modality and split (schema shard_stats).

    Args:
        folder: of the shards.
        lost: (modality, split) -> records that could not be encoded.
    """
    return {
        modality: {
            split: _part(ShardSet.open(folder, modality, split, space), lost.get((modality, split), 0), space)
            for split in SPLITS
        }
        for modality in MODALITIES
    }


def _part(shards: ShardSet, errors: int, space: TokenSpace) -> dict[str, Any]:
    lengths = np.sort(shards.lengths)
    quantiles = (
        {f"p{q}": int(lengths[min(len(lengths) - 1, q * len(lengths) // 100)]) for q in (50, 90, 99)}
        if len(lengths)
        else None
    )
    return {
        "records": len(shards),
        "errors": errors,
        "tokens": int(lengths.sum()),
        "clipped": sum(bool(record["clipped"]) for record in shards.records),
        "lengths": quantiles and {**quantiles, "max": int(lengths[-1])},
        "codes_used": [round(share, 6) for share in _codes_used(shards, space)] if len(shards) else [],
    }


def _codes_used(shards: ShardSet, space: TokenSpace) -> Iterator[float]:
    present = np.zeros(0, np.int32)
    for ids in shards.ids_by_shard():
        present = np.union1d(present, ids)
    for one in space.segments(shards.modality):
        yield ((present >= one.start) & (present <= one.end)).sum() / one.size
