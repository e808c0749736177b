"""The manifest: every record with its medium opened, measured and hashed; and what S1 counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mmpt.corpus.media import MediaError, load_image, media_path, read_audio
from mmpt.corpus.problems import Problem
from mmpt.store.digests import sha256_file
from mmpt.store.evidence import Metric

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

    `content_sha256` is of the samples or pixels, so that one recording stored twice (wav, flac) is found.
    """
    try:
        path = media_path(record, roots)
        if record["modality"] == "audio":
            wave, rate = read_audio(path)
            about = {"channels": wave.shape[0], "rate": rate, "samples": wave.shape[1]}
            content = _content(f"audio {rate} {wave.shape}", wave)
        else:
            pixels = load_image(path)
            about = {"height": pixels.shape[0], "width": pixels.shape[1]}
            content = _content(f"image {pixels.shape}", pixels)
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
        "media_sha256": sha256_file(path),
        "content_sha256": content,
        "audio": about if record["modality"] == "audio" else None,
        "image": about if record["modality"] == "image" else None,
    }


def measure_all(
    records: Sequence[Mapping[str, Any]],
    roots: Mapping[str, Path],
    threads: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any] | Problem]:
    """`measure` of each record, in order; Pillow and soundfile work outside the interpreter's lock."""
    results = []
    with ThreadPoolExecutor(max(1, threads)) as pool:
        for done, result in enumerate(pool.map(lambda record: measure(record, roots), records)):
            results.append(result)
            if done % 100 == 0:
                progress(done, len(records))
    return results


def s1_metrics(
    records: Sequence[Mapping[str, Any]],
    problems: Iterable[Mapping[str, Any]],
    modalities: Sequence[str],
    sources: Sequence[Mapping[str, Any]],
) -> list[Metric]:
    """What gate S1 asks: problems by kind over all that was read, the share of each source that was left
    out,    good records by modality, source and licence, and which of the profile's sources gave none.
    """
    problems = list(problems)
    kinds = Counter(METRICS[problem["kind"]] for problem in problems)
    read = len(records) + sum(kinds.values())
    metrics = [
        Metric(name, kinds[name], read, "records", "lower") for name in dict.fromkeys(METRICS.values())
    ]
    counts = {
        "records": Counter({m: sum(r["modality"] == m for r in records) for m in modalities}),
        "records_by_source": Counter(r["source"] for r in records),
        "records_by_licence": Counter(r["license"] for r in records),
    }
    lost = _losses(records, problems, sources)
    metrics += [Metric("lost_by_source", share, n, "share", "lower", slice=name) for name, (share, n) in lost.items()]
    worst = max(lost.values(), default=(0.0, read))
    metrics.append(Metric("lost_share", *worst, "share", "lower"))
    silent = [one for one in sources if not any(_is_from(record, one) for record in records)]
    metrics.append(Metric("sources_without_records", len(silent), len(sources), "sources", "lower"))
    for name, counter in counts.items():
        metrics += [
            Metric(name, n, read, "records", "higher", slice=part) for part, n in sorted(counter.items())
        ]
    return metrics


def _losses(
    records: Sequence[Mapping[str, Any]],
    problems: Sequence[Mapping[str, Any]],
    sources: Sequence[Mapping[str, Any]],
) -> dict[str, tuple[float, int]]:
    """Name of each source of the profile that has any record -> (share left out, records it has)."""
    lost = {one["name"]: sum(p["source"] == one["name"] for p in problems) for one in sources}
    kept = {one["name"]: sum(_is_from(record, one) for record in records) for one in sources}
    both = {name: lost[name] + kept[name] for name in lost}
    return {name: (lost[name] / n, n) for name, n in both.items() if n}


def _is_from(record: Mapping[str, Any], source: Mapping[str, Any]) -> bool:
    """A record's own `source` may be any text; its media lie in its source's folder, or were made by a reader."""
    root = record["media"]["root"]
    return source["name"] in (root, record["source"]) or (
        source["reader"] == "generated" and root == "corpus"
    )


def _content(shape: str, array: Any) -> str:
    digest = hashlib.sha256(shape.encode())
    digest.update(array.tobytes())
    return digest.hexdigest()
