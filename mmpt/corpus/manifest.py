"""The manifest: every record with its medium opened, measured and hashed; and what S1 counts."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.media import MediaError, MediaFile, Segment, load_image, media_path, read_mono, summarise_audio
from mmpt.corpus.fingerprints import HEARD, picture_fingerprint, sound_fingerprint
from mmpt.corpus.problems import Problem
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import Metric

BATCH = 32  # records a thread takes at once
SILENT = 1e-4  # root mean square, full scale 1: -80 dB, where 16 bits have three steps left
CANCELLED = 0.1  # of its level that a sound keeps when its channels are averaged: 20 dB are lost
ONE_COLOUR = 7  # of 255: what WebP at quality 80 (7), AVIF at 20 (1) or a black frame of a video leave of one colour
AHEAD = 4  # batches a thread that are read before they are asked for

# Problem kind -> the metric that S1 counts it under.
METRICS = {
    "missing": "missing_media",
    "unreadable": "unreadable_media",
    "empty": "empty_media",
    "empty_caption": "empty_captions",
    "duplicate_id": "duplicate_ids",
    "outside": "paths_outside_corpus",
    "bad_line": "bad_lines",
    "missing_column": "bad_lines",
    # Two files fit a record, or only the whole video is there that its clip was to be cut from.
    "ambiguous": "missing_media",
    "uncut": "missing_media",
}


def measure(record: Mapping[str, Any], roots: Mapping[str, Path]) -> dict[str, Any] | Problem:
    """The manifest record: the record, its file's size and SHA-256, and the decoded content's size and
    SHA-256.

    Beside them "fingerprint", int8 [n] (fingerprints.py), which is kept in a file of its own.
    `content_sha256` is of the samples or pixels, so that one recording stored twice (wav, flac) is found. A segment's
    `media_sha256` is that of its content, too: two segments of one file are two media.
    """
    try:
        path = media_path(record, roots)
        if record["modality"] == "audio":
            sound = summarise_audio(path)
            about = {
                "channels": sound.channels,
                "rate": sound.rate,
                "samples": sound.samples,
                "rms": _level(sound.rms),
                "mixed_rms": _level(sound.mixed_rms),
            }
            content = sound.content_sha256
            wave, rate = read_mono(path, HEARD)
            fingerprint = sound_fingerprint(wave, rate, sound.samples / rate)
        else:
            pixels = load_image(path)
            one_colour = bool((np.ptp(pixels, axis=(0, 1)) <= ONE_COLOUR).all())
            about = {"height": pixels.shape[0], "width": pixels.shape[1], "one_colour": one_colour}
            content = _content(f"image {pixels.shape}", pixels)
            fingerprint = picture_fingerprint(pixels)
    except MediaError as error:
        medium = record["media"]
        return Problem(
            error.kind,
            medium["root"],
            f"{medium['root']}/{medium['path']}",
            record["id"],
            error.what,
            str(error.found),
            str(error.expected),
            error.fix,
        )
    return {
        **record,
        "bytes": path.stat().st_size,
        "media_sha256": content if isinstance(path, Segment) else _digest(path),
        "content_sha256": content,
        "fingerprint": fingerprint,
        "audio": about if record["modality"] == "audio" else None,
        "image": about if record["modality"] == "image" else None,
    }


def measure_all(
    records: Iterable[Mapping[str, Any]],
    roots: Mapping[str, Path],
    threads: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Iterator[dict[str, Any] | Problem]:
    """`measure` of each record, in order; Pillow and soundfile work outside the interpreter's lock.

    At most `AHEAD` batches a thread are read ahead, so memory does not grow with the number of records.
    """
    done = 0
    with ThreadPoolExecutor(max(1, threads)) as pool:
        ahead: deque[Future[list]] = deque()
        for batch in _batches(records):
            ahead.append(pool.submit(_measure_batch, batch, roots))
            if len(ahead) > AHEAD * max(1, threads):
                results = ahead.popleft().result()
                yield from results
                done += len(results)
                progress(done)
        while ahead:
            yield from ahead.popleft().result()


def _batches(records: Iterable[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Handing single records to threads would cost as much as measuring a small one."""
    source = iter(records)
    while batch := list(islice(source, BATCH)):
        yield batch


def _measure_batch(batch: Sequence[Mapping[str, Any]], roots: Mapping[str, Path]) -> list:
    return [measure(record, roots) for record in batch]


def s1_metrics(
    records: Iterable[Mapping[str, Any]],
    problems: Iterable[Mapping[str, Any]],
    modalities: Sequence[str],
    sources: Sequence[Mapping[str, Any]],
) -> list[Metric]:
    """What gate S1 asks: problems by kind over all that was read, the share of each source that was left out,
    good records by modality, source and licence, media without content, and which of the profile's sources gave
    none. Both are gone over once.

    A record counts for the source that it was read from, whatever its own field `source` says.
    """
    kinds: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    for problem in problems:
        kinds[METRICS[problem["kind"]]] += 1
        lost[problem["source"]] += 1
    empty: Counter = Counter()
    by: dict[str, Counter[str]] = {name: Counter() for name in ("records", "records_by_source", "records_by_licence")}
    places: Counter[Any] = Counter()
    good = 0
    for record in records:
        good += 1
        by["records"][record["modality"]] += 1
        by["records_by_source"][record["source"]] += 1
        by["records_by_licence"][record["license"]] += 1
        places[record["media"]["root"]] += 1
        empty.update(_without_content(record))
    by["records"] = Counter({modality: by["records"][modality] for modality in modalities})
    read = good + sum(kinds.values())
    metrics = [Metric(name, kinds[name], read, "records", "lower") for name in dict.fromkeys(METRICS.values())]
    roots = {one["name"]: "corpus" if one["reader"] == "generated" else one["name"] for one in sources}
    kept = {name: places[root] for name, root in roots.items()}
    metrics += _losses({name: lost[name] + lost[root] * (root != name) for name, root in roots.items()}, kept)
    metrics += _shares(empty, by["records"])
    silent = sum(not n for n in kept.values())
    metrics.append(Metric("sources_without_records", silent, len(sources), "sources", "lower"))
    for name, counter in by.items():
        metrics += [Metric(name, n, read, "records", "higher", slice=part) for part, n in sorted(counter.items())]
    return metrics


def _losses(lost: Mapping[str, int], kept: Mapping[str, int]) -> list[Metric]:
    """The share of its records that each source lost, and the largest; a source without any record has none."""
    asked = {name: lost[name] + n for name, n in kept.items() if lost[name] + n}
    shares = {name: (lost[name] / n, n) for name, n in asked.items()}
    worst = max(shares.values(), default=(0.0, 0))
    return [
        *(Metric("lost_by_source", *one, "share", "lower", slice=name) for name, one in shares.items()),
        Metric("lost_share", *worst, "share", "lower"),
    ]


def _without_content(record: Mapping[str, Any]) -> list[str]:
    """Names of the metrics that count this medium: nothing in it can be what its caption says."""
    sound, picture = record["audio"] or {}, record["image"] or {}
    if sound.get("rms", 1.0) < SILENT:
        return ["silent_sounds"]
    if sound and sound.get("mixed_rms", 1.0) < CANCELLED * sound.get("rms", 1.0):
        return ["cancelled_sounds"]
    return ["one_colour_pictures"] if picture.get("one_colour") else []


def _shares(empty: Mapping[str, int], records: Mapping[str, int]) -> list[Metric]:
    """The share of the sounds or pictures that each metric counts, for the modalities of `records`."""
    of = {"silent_sounds": "audio", "cancelled_sounds": "audio", "one_colour_pictures": "image"}
    counts = [(name, empty[name], records[modality], modality) for name, modality in of.items() if modality in records]
    return [Metric(name, k / n if n else 0.0, n, "share", "lower", slice=part) for name, k, n, part in counts]


def _digest(path: MediaFile) -> str:
    if isinstance(path, Path):
        return sha256_file(path)
    with path.open() as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]  # it is a BufferedReader


def _content(shape: str, array: Any) -> str:
    digest = hashlib.sha256(shape.encode())
    digest.update(array.data)
    return digest.hexdigest()


def _level(rms: float) -> float:
    """A level with four digits: what is stored must not depend on the order of summation."""
    return float(f"{rms:.4g}")
