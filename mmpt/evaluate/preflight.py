"""Before the long run: one token space (A1), sound sequences (A3), stored codes that decode (A4).

A2, what trains, needs the optimizer and is measured in `trainable.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.evaluate.media import png_faults, wav_faults, write_png, write_wav
from mmpt.evaluate.sequences import FAULTS, faults
from mmpt.evaluate.sets import Codecs, decode_audio, decode_image, safe_name
from mmpt.shards.encode import ENCODE_ERRORS
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.text_set import encoded, open_tokenizer
from mmpt.store.canonical import read_json
from mmpt.store.digests import sha256_file
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric
from mmpt.store.tasks import EMIT_TASKS, MODALITIES, SPLITS, TASKS
from mmpt.store.tensors import read_meta
from mmpt.tokens import TokenSpace
from mmpt.tokens.space import FILE_NAME, SHA_NAME, from_json, stored_sha

SAMPLES = 4  # stored items per modality that gate A4 decodes


@dataclass
class Marks:
    """Which token spaces were found, where, and what names none."""

    found: dict[str, str] = field(default_factory=dict)
    unmarked: list[str] = field(default_factory=list)
    records: int = 0

    def add(self, name: str, digest: str | None) -> None:
        if digest:
            self.found[name] = digest
        else:
            self.unmarked.append(name)


def token_spaces(
    token_space: Path, shards: Path, examples: Path, checkpoint: Path, base: Path
) -> tuple[list[Metric], dict[str, Any]]:
    """A1: the token-space digest of every file and every record of the run; metrics and details.

    Nothing is opened in a way that refuses another token space: what differs is counted here.
    """
    marks, space = Marks(), from_json(read_json(token_space / FILE_NAME))
    marks.add("token_space", space.digest)
    for folder, name in ((shards, "shards"), (examples, "examples"), (checkpoint, "checkpoint")):
        files = sorted(folder.glob("*.safetensors"))
        for path in files:
            marks.add(f"{name}/{path.name}", meta_token_space(path))
        if not files:
            marks.unmarked.append(f"{name}: no file")
    for modality in MODALITIES:
        for split in SPLITS:
            for record in ShardSet.open(shards, modality, split).records:
                marks.records += 1
                if record.get("token_space") != space.digest:
                    marks.add(f"record {record['id']}", record.get("token_space"))
    about = read_json(base / "base.json") if (base / "base.json").is_file() else {}
    marks.add("base/base.json", about.get("token_space"))
    failures = upstream_failures(token_space)
    distinct = len(set(marks.found.values()))
    n = len(marks.found) + marks.records
    metrics = [
        Metric("distinct_digests", distinct, n, "digests", "none"),
        Metric("records_without_digest", len(marks.unmarked), n, "records", "lower"),
        Metric("upstream_sha_failures", len(failures), 1, "files", "lower"),
    ]
    others = {name: digest for name, digest in marks.found.items() if digest != space.digest}
    details = {
        "digest": space.digest,
        "files": len(marks.found),
        "records": marks.records,
        "others": dict(sorted(others.items())[:20]),
        "unmarked": sorted(marks.unmarked)[:20],
        "upstream_failures": failures,
    }
    return metrics, details


def one_space(metrics: Sequence[Metric]) -> bool:
    """Is there one token space, so that shards, examples and checkpoint can be opened together at all?"""
    found = {metric.name: metric.value for metric in metrics}
    return found["distinct_digests"] == 1 and not (found["records_without_digest"] or found["upstream_sha_failures"])


def meta_token_space(path: Path) -> str | None:
    """The token-space digest in a safetensors header, None where it names none."""
    try:
        meta = read_meta(path)
    except UserError:
        return None
    return meta.get("token_space") or meta.get("token_space_digest")


def upstream_failures(token_space: Path) -> list[str]:
    """Is token_space.sha256 what its token_space.json gives, by the rule of the format that wrote it?"""
    expected = stored_sha(read_json(token_space / FILE_NAME))
    if not (token_space / SHA_NAME).is_file():
        return [f"no {SHA_NAME}"]
    stored = (token_space / SHA_NAME).read_text(encoding="utf-8", errors="replace").strip()
    return [] if stored == expected else [f"{SHA_NAME}: found {stored}, expected {expected}"]


def sequence_checks(
    space: TokenSpace, shards: Path, examples: Path, token_space: Path, progress: Callable[[int, int], None]
) -> tuple[list[Metric], dict[str, Any]]:
    """A3: labels of every example, and its target against the shard's or the caption's ids."""
    tokenizer, drops = open_tokenizer(token_space), read_json(examples / "drops.json")
    metrics: list[Metric] = []
    details: dict[str, Any] = {}
    for task in TASKS:
        total: Counter[str] = Counter()
        n = records = 0
        for split in SPLITS:
            examined = ExampleSet.open(examples, shards, space, task, split)
            n += len(examined)
            records += len(examined.shards)
            for index, whole in enumerate(_whole_targets(examined, tokenizer)):
                total += _faults(space, examined, index, whole)
        progress(TASKS.index(task) + 1, len(TASKS))
        kept, dropped = drops[task]["kept"], drops[task]["dropped"]
        if not kept and not dropped:
            continue
        metrics += [Metric(name, total[name], n, "", "lower", slice=task) for name in FAULTS]
        # What is there counts, not what drops.json says of it: a record that is in no list is lost as well.
        all_records = max(records, n + sum(dropped.values()))
        metrics.append(Metric("kept_share", n / all_records, all_records, "share", "higher", slice=task))
        metrics += [
            Metric("dropped", count, kept, "records", "lower", slice=f"{task}.{reason}")
            for reason, count in sorted(dropped.items())
        ]
        details[task] = {"checked": n, **{name: total[name] for name in FAULTS}, "drops": drops[task]}
    return metrics, details


def _faults(space: TokenSpace, examples: ExampleSet, index: int, whole: Sequence[int]) -> Counter[str]:
    try:
        one = examples[index]
    except UserError:  # the formats refuse ids outside their segment: no sequence, and no crash that decides nothing
        return Counter(labels_outside_segment=1)
    return faults(space, examples.task, one.input_ids, one.labels, whole)


def _whole_targets(examples: ExampleSet, tokenizer):
    """What each example's target must be: the shard's ids, or the caption as the tokenizer gives it."""
    if examples.task in EMIT_TASKS:
        return (examples.shards.ids(int(row)) for row in examples.rows)
    return encoded(tokenizer, (record["caption"] for record in examples.records))


def decode_stored(
    space: TokenSpace, shards: Path, codecs: Codecs, out: Path, seed: int
) -> tuple[list[Metric], list[dict]]:
    """A4: SAMPLES items per modality decoded to `out`/decode, read back and compared with their meta."""
    metrics: list[Metric] = []
    samples: list[dict[str, Any]] = []
    for modality, codec in (("audio", codecs.audio), ("image", codecs.image)):
        if codec is None:
            continue
        stored = next(
            (
                s
                for s in (ShardSet.open(shards, modality, split, space) for split in ("test", "val", "train"))
                if len(s) >= SAMPLES
            ),
            ShardSet.open(shards, modality, "train", space),
        )
        chosen = np.unique(np.linspace(0, max(0, len(stored) - 1), SAMPLES).astype(int)) if len(stored) else ()
        rows = [_decode_one(space, stored, int(index), modality, codecs, out, seed) for index in chosen]
        failed = sum(bool(row["error"]) for row in rows)
        wrong = sum(bool(row["faults"]) for row in rows)
        metrics += [
            Metric("decode_failures", failed, len(rows), "items", "lower", slice=modality),
            Metric("decode_form_errors", wrong, len(rows), "items", "lower", slice=modality),
        ]
        samples += rows
    return metrics, samples


def _decode_one(
    space, stored: ShardSet, index: int, modality: str, codecs: Codecs, out: Path, seed: int
) -> dict[str, Any]:
    record = stored.record(index)
    suffix = "wav" if modality == "audio" else "png"
    path = f"decode/{safe_name(record['id'])}.{suffix}"
    row = {
        "id": record["id"],
        "modality": modality,
        "caption": record["caption"],
        "path": path,
        "error": None,
        "faults": [],
    }
    try:
        if modality == "audio":
            wave = decode_audio(codecs, space, stored.ids(index), record)
            write_wav(out / path, wave, codecs.audio.sample_rate)
        else:
            write_png(out / path, decode_image(codecs, space, stored.ids(index), seed))
    except ENCODE_ERRORS as error:
        return {**row, "path": None, "error": f"{type(error).__name__}: {error}"}
    if modality == "audio":
        found = wav_faults(
            out / path,
            rate=record["sample_rate"],
            channels=record["channels"],
            samples=record["samples"],
            reconstruction_rms=0.0,
        )
    else:
        width, height = record["decode_size"]
        found = png_faults(out / path, size=(height, width))
    # A constant picture or a silent sound may be what was recorded: form is what is asked here.
    return {
        **row,
        "faults": [fault for fault in found if fault in ("missing", "unreadable", "wrong_form")],
        "sha256": sha256_file(out / path),
    }
