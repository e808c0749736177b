"""The gallery: for each shown golden item its prompt, the original medium, the codec's reconstruction, and the
model's first and last output.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from mmpt.codecs.media import MediaError, convert, load_image, media_path, read_audio, read_mono
from mmpt.shards.golden_files import golden_path
from mmpt.store.jsonl import read_jsonl
from mmpt.store.tasks import MODALITY_OF, READ_TASKS

SHOWN = 16  # items per task: what a person looks at
LONGEST_SIDE = 320  # pixels of a shown original
LONGEST_SOUND = 30.0  # seconds of an original sound in the gallery
RATE = 24_000  # samples per second at most of an original sound
BARS = 56  # bars of a drawn sound

Row = Mapping[str, Any]


def collect_gallery(
    inputs: Mapping[str, Path], out: Path, roots: Mapping[str, Path], progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """One entry per shown item (``report_data.schema.json``); its media are copied to ``out``/gallery."""
    if "golden" not in inputs:
        return []
    items: list[dict[str, Any]] = []
    tasks = ("t2i", "t2a", "i2t", "a2t")
    for task in tasks:
        path = golden_path(inputs["golden"], task)
        outputs = _outputs(inputs.get("generate"), task)
        for place, record in enumerate(read_jsonl(path)[:SHOWN] if path else ()):
            progress(len(items), SHOWN * len(tasks))
            items.append(_item(place, record, outputs, inputs, out, roots))
    return items


def _outputs(folder: Path | None, task: str) -> dict[str, tuple[Path, dict[str, Row]]]:
    """what ("first", "final", "sampled") -> (folder that paths start from, record id -> output row)."""
    if folder is None:
        return {}
    steps = sorted(
        (int(path.name.removeprefix("step_")), path) for path in folder.glob("qual/step_*") if path.name[5:].isdigit()
    )
    if not steps:
        return {}
    wanted = {"first": steps[0][1], "final": steps[-1][1], "sampled": steps[-1][1] / "sampled"}
    if len(steps) == 1:
        del wanted["first"]
    found: dict[str, tuple[Path, dict[str, Row]]] = {}
    for what, base in wanted.items():
        files = sorted(base.glob(f"step_*_golden_{task}.jsonl"))
        if files:
            found[what] = (base, {row["id"]: row for row in read_jsonl(files[0])})
    return found


def _item(
    place: int,
    record: Row,
    outputs: Mapping[str, tuple[Path, Mapping[str, Row]]],
    inputs: Mapping[str, Path],
    out: Path,
    roots: Mapping[str, Path],
) -> dict[str, Any]:
    modality, name = MODALITY_OF[record["task"]], f"gallery/{record['task']}/{place:02d}"
    views, texts = [], []
    original = _original(record, modality, roots, out / f"{name}-original")
    if original is not None:
        views.append(_view("original", original, modality, out, record))
    stored = _stored_reconstruction(record, modality, inputs.get("generate"))
    if stored is not None:
        copy = _copied(stored, out / f"{name}-reconstruction")
        views.append(_view("reconstruction", copy, modality, out, record))
    for what, (base, rows) in outputs.items():
        row = rows.get(record["id"])
        if row is None:
            continue
        if row.get("path"):
            copy = _copied(base / row["path"], out / f"{name}-{what}")
            views.append({**_view(what, copy, modality, out, record), "step": row["step"]})
        else:
            texts.append({"what": what, "step": row["step"], "text": _said(row)})
    kept = {key: record[key] for key in ("task", "id", "caption", "source")}
    return {**kept, "modality": modality, "views": views, "texts": texts}


def _copied(source: Path, target: Path) -> Path:
    target = target.with_name(target.name + source.suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    return target


def _said(row: Row) -> str:
    """The text that came out, or why no medium did."""
    if row.get("text") is not None:
        return row["text"]
    return f"not decoded: {row.get('decode_error') or row.get('fault')}"


def _original(record: Row, modality: str, roots: Mapping[str, Path], target: Path) -> Path | None:
    """The medium as it is in the corpus, small enough for a page, as a file next to ``target``; None: not there."""
    target = target.with_name(target.name + (".wav" if modality == "audio" else ".png"))
    try:
        original = media_path(record, roots) if record["media"]["root"] in roots else None
        if original is None:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        if modality == "image":
            picture = Image.fromarray(load_image(original))
            picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
            picture.save(target)
        else:
            wave, rate = read_mono(original, _seconds(record))
            if rate > RATE:
                wave, rate = convert(wave, rate, RATE, 1), RATE
            soundfile.write(target, wave[0], rate, subtype="PCM_16")
    except MediaError:
        return None  # gates S1 and S3 tell of it; the report goes on without the picture
    return target


def _stored_reconstruction(record: Row, modality: str, generate: Path | None) -> Path | None:
    """The stored codes of the medium, decoded by stage generate: the best that the model could give back."""
    if generate is None:
        return None
    emit, suffix = ("t2a", ".wav") if modality == "audio" else ("t2i", ".png")
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", record["id"])[:120]
    # An id that a file name cannot hold is stored as its safe form and a digest.
    pattern = f"{safe}{suffix}" if safe == record["id"] else f"{safe}-*{suffix}"
    hits = sorted(generate.glob(f"**/reconstruction/{emit}_{modality}/{pattern}"))
    return hits[0] if hits else None


def _seconds(record: Row) -> float:
    """How many were tokenised; else the most that a page plays."""
    meta = record.get("meta") or {}
    if meta.get("samples") and meta.get("sample_rate"):
        return meta["samples"] / meta["sample_rate"]
    return LONGEST_SOUND


def _view(what: str, path: Path, modality: str, out: Path, record: Row) -> dict[str, Any]:
    """One picture or sound: its path, size or duration, and what the oracle reads in it."""
    view = {
        "what": what,
        "path": path.relative_to(out).as_posix(),
        "step": None,
        "read": _read(path, modality, record),
    }
    if modality == "image":
        with Image.open(path) as picture:
            return {**view, "width": picture.width, "height": picture.height}
    wave, rate = read_audio(path)
    return {**view, "seconds": round(wave.shape[1] / rate, 4), "peaks": _peaks(wave)}


def _peaks(wave: np.ndarray) -> list[float]:
    """Largest magnitude in each of BARS equal pieces, 0..1."""
    edges = np.linspace(0, wave.shape[1], BARS + 1).astype(int)
    loud = np.abs(wave).max(axis=0)
    return [round(float(loud[start:end].max()), 3) if end > start else 0.0 for start, end in itertools.pairwise(edges)]


def _read(path: Path, modality: str, record: Row) -> list[dict[str, Any]]:
    """For each attribute that the caption mentions: what it says, and what the file shows."""
    if record["task"] in READ_TASKS or not record.get("attributes") or not record.get("mentioned"):
        return []
    from mmpt.corpus import oracle  # brings scipy: only where there are attributes to read

    if modality == "image":
        shown = oracle.read("image", load_image(path))
    else:
        wave, rate = read_audio(path)
        shown = oracle.read("audio", wave, rate)
    return [
        {"attribute": name, "wanted": record["attributes"][name], "shown": shown[name]} for name in record["mentioned"]
    ]
