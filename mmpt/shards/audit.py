"""The shard audit: every id checked, a sample encoded again, a sample decoded and compared with its medium.

It measures and judges nothing: the counts go to gate S3. An item that fails is counted
and named; it ends no audit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.contract import read_contract
from mmpt.codecs.round_trips import RoundTrips
from mmpt.codecs.trivial_decodes import Summary, summarise
from mmpt.shards.counter_rng import bits, stream
from mmpt.shards.encode import ENCODE_ERRORS, Encoder, Failed, Record, encode_records
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.stored import stored_audio, stored_image
from mmpt.store.canonical import write_json
from mmpt.store.evidence import Direction, Metric, write_evidence
from mmpt.store.jsonl import iter_jsonl
from mmpt.store.numbers import Labels, Numbers
from mmpt.store.stage import StageContext
from mmpt.store.tasks import SPLITS
from mmpt.tokens.space import TokenSpace

REENCODED, DECODED = 512, 32
"""Items encoded again and decoded, or all there are."""
_NAMED = 20  # offenders listed per modality
_METRIC_NAMES = {
    "psnr": "psnr_db",
    "si_sdr": "si_sdr_db",
}  # a codec's own names -> those of gates/policy.yaml


@dataclass
class Findings:
    """What was found in one modality's shards; the fields are those of schema audit."""

    expected: int = 0
    records: int = 0
    missing: int = 0
    unaccounted: int = 0
    twice: int = 0
    wrong_split: int = 0
    cut: int = 0
    tokens: int = 0
    ids_out_of_segment: int = 0
    length_mismatches: int = 0
    digest_mismatches: int = 0
    reencoded: int = 0
    reencode_tokens: int = 0
    reencode_mismatches: int = 0
    decoded: int = 0
    decode_errors: int = 0
    compared: int = 0
    silent: int = 0
    own_wins: int = 0
    own_tried: int = 0
    quality_metric: str = ""
    quality_floor: float = 0.0
    quality: dict[str, float | None] = field(default_factory=dict)
    trivial: Summary | None = None
    contract_tried: int = 0
    contract_broken: dict[str, str] = field(default_factory=dict)
    offenders: list[dict[str, str]] = field(default_factory=list)

    def blame(self, record_id: str, check: str, found: object) -> None:
        """Name an offender, up to the limit."""
        if len(self.offenders) < _NAMED:
            self.offenders.append({"id": record_id, "check": check, "found": str(found)})

    def take_contract(self, contract: Mapping[str, Any]) -> None:
        """Take over what stage codecs found when it tried the codec's contract (schema codec_contract)."""
        self.contract_tried, self.contract_broken = len(contract["tried"]), dict(contract["broken"])
        for rule, what in self.contract_broken.items():
            self.blame("codec", f"contract: {rule}", what)


def audit(
    sets: Sequence[ShardSet],
    encoder: Encoder,
    space: TokenSpace,
    *,
    expected: Labels,
    failed: Iterable[str],
    seed: int,
    batch: int,
    media: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Findings:
    """Audit all splits of one modality.

    Args:
        sets: the shard sets of the modality, opened without a token space: another is a finding, no error.
        expected: id -> split of the records that should be in them, by the split and not by what the shards say.
        failed: ids of the records that could not be encoded, as errors.jsonl of the shards names them.
        media: are the records' media there? Without them nothing is encoded again or compared.
        progress: called with (records encoded again, all of them).
    """
    codec = encoder.codec
    found = Findings(
        expected=len(expected), quality_metric=codec.quality_metric, quality_floor=float(codec.quality_floor)
    )
    for shards in sets:
        found.records += len(shards)
        found.tokens += int(shards.lengths.sum())
        found.cut += sum(record.get("clipped") is True for record in shards.records)
        check_segments(shards, space, found)
        check_records(shards, space, _tokens_per_image(encoder), found)
    check_places(sets, expected, failed, found)
    chosen = _sample(sets, stream(seed, "shard audit", encoder.modality))
    if media:
        _encode_again(chosen, encoder, batch, found, progress)
    _decode(chosen[:DECODED], encoder, space, found, media)
    return found


def audit_modality(
    ctx: StageContext, encoder: Encoder, space: TokenSpace, expected: Labels, *, media: bool = True
) -> tuple[Findings, list[ShardSet]]:
    """Audit the shards of the encoder's modality, as a stage reads them, with what stage codecs found of the codec.

    Args:
        expected, media: as `audit` takes them.
    """
    folder, modality = ctx.inputs["shards"], encoder.modality
    sets = [ShardSet.open(folder, modality, split) for split in SPLITS]
    seed, batch = ctx.seed, ctx.profile["shards.batch"]
    failed = failed_ids(folder)
    ways = {"expected": expected, "failed": failed, "seed": seed, "batch": batch, "media": media}
    found = audit(sets, encoder, space, **ways, progress=ctx.bar(f"{modality}: encoded again"))
    found.take_contract(read_contract(ctx.inputs["codecs"] / modality))
    return found, sets


def failed_ids(folder: Path) -> Iterator[str]:
    """Ids that errors.jsonl of the shards in `folder` names."""
    return (row["id"] for row in iter_jsonl(folder / "errors.jsonl"))


def _sample(sets: Sequence[ShardSet], key: np.uint64) -> list[tuple[ShardSet, int]]:
    """REENCODED records of all sets, or all there are, in random order: (set, index in it)."""
    ends = np.cumsum([len(shards) for shards in sets])
    order = np.argsort(bits(key, np.arange(int(ends[-1]))), kind="stable")[:REENCODED]
    which = np.searchsorted(ends, order, side="right")
    return [(sets[one], int(place - ends[one] + len(sets[one]))) for one, place in zip(which, order, strict=True)]


def check_segments(shards: ShardSet, space: TokenSpace, found: Findings) -> None:
    """Count ids outside the segment of their position, by the order of the token space's codes."""
    first = 0  # record of the shard; all ids at once, with a place each, would be 28 bytes per token
    for ids, header in zip(shards.ids_by_shard(), shards.headers, strict=True):
        lengths = shards.lengths[first : first + header["n"]].astype(np.int64)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        bad = _misplaced(space, shards.modality, ids, lengths, np.arange(len(ids)) - starts)
        found.ids_out_of_segment += int(bad.sum())
        owners = np.repeat(np.arange(len(lengths)), lengths)
        for place in np.flatnonzero(bad)[:_NAMED]:
            found.blame(
                shards.record(first + int(owners[place]))["id"],
                "ids_out_of_segment",
                f"id {ids[place]} at {place - starts[place]}",
            )
        first += header["n"]


def _misplaced(
    space: TokenSpace, modality: str, ids: np.ndarray, lengths: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """bool [n]: ids outside the segment of their place.

    Args:
        ids: of records one after another. lengths: of each record. places: int64 [n], of each id in its record.
    """
    if modality == "image" or space.stream.open_ended:  # shorter records have the longest one's ranges, cut off
        low, stop = space.payload_ranges(modality, int(lengths.max(initial=0)))
        return (ids < low[places]) | (ids >= stop[places])
    bad = np.ones(len(ids), bool)  # parts of frames have no place in another order
    ends = np.cumsum(lengths)
    for end, n in zip(ends.tolist(), lengths.tolist(), strict=True):
        if n % space.stream.width == 0:
            low, stop = space.payload_ranges(modality, n)
            bad[end - n : end] = (ids[end - n : end] < low) | (ids[end - n : end] >= stop)
    return bad


def check_records(shards: ShardSet, space: TokenSpace, tokens_per_image: int, found: Findings) -> None:
    """Count wrong lengths, and records and shards of another token space."""
    for path, header in zip(shards.files, shards.headers, strict=True):
        if header["token_space"] != space.digest:
            found.digest_mismatches += 1
            found.blame(path.name, "digest_mismatches", header["token_space"])
    for record, length in zip(shards.records, shards.lengths.tolist(), strict=True):
        audio = shards.modality == "audio"
        expected = (record["frames"] or 0) * space.stream.width if audio else tokens_per_image
        if length != expected or length != record["n_tokens"]:
            found.length_mismatches += 1
            found.blame(record["id"], "length_mismatches", f"{length} ids, expected {expected}")
        if record.get("token_space") != space.digest:
            found.digest_mismatches += 1
            found.blame(record["id"], "digest_mismatches", record.get("token_space"))


def check_places(sets: Sequence[ShardSet], expected: Labels, failed: Iterable[str], found: Findings) -> None:
    """Count records in shards of another split, more than once in the shards, and in none.

    unaccounted: of the records that should be there, those that are in no shard and that errors.jsonl does not name.
    """
    seen, there = Numbers(), 0
    for shards in sets:
        for record in shards.records:
            side, before = expected.get(record["id"]), len(seen)
            seen.add(record["id"])
            if len(seen) == before:
                found.twice += 1
                found.blame(record["id"], "twice", f"again in {shards.split}")
            else:
                there += side is not None
            if side != shards.split:
                found.wrong_split += 1
                found.blame(record["id"], "wrong_split", f"{shards.split}, expected {side}")
    named = Numbers()
    for one in failed:
        if expected.get(one) is not None and seen.find(one) < 0:
            named.add(one)
    found.missing = len(expected) - there
    found.unaccounted = found.missing - len(named)


def _tokens_per_image(encoder: Encoder) -> int:
    return 0 if encoder.modality == "audio" else encoder.codec.tokens_per_image


def _encode_again(
    chosen: Sequence[tuple[ShardSet, int]],
    encoder: Encoder,
    batch: int,
    found: Findings,
    progress: Callable[[int, int], None],
) -> None:
    records = [shards.record(index) for shards, index in chosen]
    encoded = encode_records(encoder, records, batch, lambda done: progress(done, len(records)))
    for (shards, index), record, again in zip(chosen, records, encoded, strict=True):
        if isinstance(again, Failed):
            found.blame(record["id"], "reencode", again.error)
            continue
        stored, fresh = shards.ids(index), again.ids
        common = min(len(stored), len(fresh))
        different = int((stored[:common] != fresh[:common]).sum()) + abs(len(stored) - len(fresh))
        found.reencoded += 1
        found.reencode_tokens += len(stored)
        found.reencode_mismatches += different
        if different:
            found.blame(record["id"], "reencode", f"{different} of {len(stored)} tokens differ")


def _decode(
    chosen: Sequence[tuple[ShardSet, int]],
    encoder: Encoder,
    space: TokenSpace,
    found: Findings,
    media: bool,
) -> None:
    """Decode each, then compare it with its medium; media are opened one at a time."""
    outputs = []
    for shards, index in chosen:
        record = shards.record(index)
        try:
            output, wrong = _decode_one(shards.ids(index), record, encoder, space)
        except ENCODE_ERRORS as error:
            wrong = f"{type(error).__name__}: {error}"
        found.decoded += 1
        if wrong:
            found.decode_errors += 1
            found.blame(record["id"], "decode", wrong)
        else:
            outputs.append((record, shards.ids(index).tobytes(), output))
    if media:
        _compare(outputs, encoder, found)


def _compare(outputs: Sequence[tuple[Record, bytes, np.ndarray]], encoder: Encoder, found: Findings) -> None:
    """Take over what the decodes (record, its ids, what came out) keep of their media."""
    trips = RoundTrips(encoder.codec, encoder.modality)
    for place, (record, ids, output) in enumerate(outputs):
        following = (*outputs[place + 1 :], *outputs[:place])
        other = next((one for _, others, one in following if others != ids), None)
        try:
            trips.add(encoder.ground_truth(record), output, other)
        except ENCODE_ERRORS as error:
            found.blame(record["id"], "compare", f"{type(error).__name__}: {error}")
            continue
        found.compared += 1
    found.silent = trips.silent
    found.own_wins, found.own_tried = sum(trips.wins), len(trips.wins)
    for name in sorted({name for one in trips.quality for name in one}):
        found.quality[name] = float(np.median([one[name] for one in trips.quality if name in one]))
    found.trivial = summarise(trips.comparisons())


def _decode_one(ids: np.ndarray, record: Record, encoder: Encoder, space: TokenSpace) -> tuple[np.ndarray, str]:
    """(what the codec gives back, what is wrong with it or nothing)."""
    if encoder.modality == "audio":
        (wave,) = encoder.codec.decode([stored_audio(space, ids, record)])
        return wave, _wrong_sound(wave, record, encoder)
    (picture,) = encoder.codec.decode([stored_image(space, ids)], [0])
    width, height = record["decode_size"]
    good = picture.dtype == np.uint8 and picture.shape == (height, width, 3) and width == encoder.codec.decode_size
    return picture, "" if good else f"{picture.dtype} {picture.shape}, expected uint8 ({height}, {width}, 3)"


def _wrong_sound(wave: np.ndarray, record: Record, encoder: Encoder) -> str:
    if wave.shape != (record["channels"], record["samples"]):
        return f"shape {wave.shape}, expected ({record['channels']}, {record['samples']})"
    if (encoder.codec.sample_rate, encoder.codec.channels) != (record["sample_rate"], record["channels"]):
        return f"codec of {encoder.codec.sample_rate} Hz, record of {record['sample_rate']} Hz"
    return "" if np.isfinite(wave).all() else "samples that are not finite"


def metrics_of(found: Findings, modality: str) -> list[Metric]:
    """Gate S3's metrics of one modality."""

    def metric(name: str, value: float | int | None, n: int, unit: str, direction: Direction = "lower") -> Metric:
        return Metric(name, value, n, unit, direction, slice=modality)

    planned = min(REENCODED, found.records)
    quality = found.quality.get(found.quality_metric)
    margin = None if quality is None else quality - found.quality_floor
    sound = found.decoded - found.decode_errors
    heard = found.compared - found.silent
    return [
        metric("ids_out_of_segment", found.ids_out_of_segment, found.tokens, "ids"),
        metric("length_mismatches", found.length_mismatches, found.records, "records"),
        metric("digest_mismatches", found.digest_mismatches, found.records, "records"),
        metric("records_in_wrong_split", found.wrong_split, found.records, "records"),
        metric("records_unaccounted", found.unaccounted, found.expected, "records"),
        metric("records_twice", found.twice, found.records, "records"),
        metric(
            "reencode_mismatch_rate",
            found.reencode_mismatches / found.reencode_tokens if found.reencode_tokens else None,
            found.reencoded,
            "share",
        ),
        metric("reencode_items_missing", planned - found.reencoded, planned, "items"),
        metric("decode_errors", found.decode_errors, found.decoded, "items"),
        metric("compare_items_missing", sound - found.compared, found.decoded, "items"),
        metric("reconstruction_margin", margin, heard, found.quality_metric, "higher"),
        *([metric("silent_decoded", found.silent, found.compared, "items", "none")] * (modality == "audio")),
        *([] if found.trivial is None else [_own_wins(found, modality)]),
        *_contract_metrics(found, modality),
        # A clip's end that was left out is in no token: neither heard nor learned.
        *([metric("cut_share", found.cut / max(1, found.records), found.records, "share")] * (modality == "audio")),
        metric("encode_failure_rate", found.missing / max(1, found.expected), found.expected, "share"),
        *(
            metric(_METRIC_NAMES.get(name, name), value, heard, "", "none")
            for name, value in sorted(found.quality.items())
        ),
    ]


def _own_wins(found: Findings, modality: str) -> Metric:
    """Items whose decode is nearer to their medium than the decode of an item with other codes."""
    share = found.own_wins / found.own_tried if found.own_tried else None
    return Metric("own_win_rate", share, found.own_tried, "share", "higher", slice=modality)


def _contract_metrics(found: Findings, modality: str) -> list[Metric]:
    """Broken rules of the codec's contract, and its decodes against trivial versions of themselves."""
    broken = Metric(
        "contract_rules_broken", len(found.contract_broken), found.contract_tried, "rules", "lower", slice=modality
    )
    one = found.trivial
    if one is None:
        return [broken]
    return [
        broken,
        Metric("trivial_items_better", one.better, one.items, "share", "lower", slice=modality),
        Metric("trivial_margin_mean", one.mean, one.items, "share", "higher", slice=modality),
        Metric("gain_over_constant", one.gain, one.varied, "share", "higher", slice=modality),
    ]


def write_findings(
    ctx: StageContext,
    found: Mapping[str, Findings],
    outside: Sequence[Metric],
    subject: dict[str, str],
    notes: Sequence[str] = (),
) -> None:
    """audit.json and the evidence of gate S3.

    Args:
        found: by modality. outside: metrics of train_only.py. subject: digests of what was measured.
    """
    report = {modality: asdict(one) for modality, one in found.items()}
    *fitted, text = outside
    seen = {
        "codec_fit_items_outside_train": {one.slice: one.value for one in fitted},
        "base_text_captions_outside_train": text.value,
    }
    write_json(ctx.out / "audit.json", {**report, **seen})
    metrics = [metric for modality, one in found.items() for metric in metrics_of(one, modality)]
    samples = [offender for modality in sorted(found) for offender in found[modality].offenders]
    write_evidence(ctx.out, "S3", [*metrics, *outside], samples=samples, subject=subject, notes=notes)
