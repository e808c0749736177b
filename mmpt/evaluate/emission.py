"""What stage `generate` writes and measures: golden outputs as files, and gates B4 and C1 on them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from PIL import Image

from mmpt.evaluate.golden import (
    Decoder,
    DecodingSettings,
    Outputs,
    free_rates,
    output_rows,
    summary,
)
from mmpt.evaluate.media import clipped_share, png_faults, wav_faults, write_png, write_wav
from mmpt.evaluate.sets import Record, decode_audio, decode_image, item_seed, safe_name
from mmpt.store.canonical import read_json, write_json
from mmpt.store.evidence import Metric
from mmpt.store.jsonl import write_jsonl
from mmpt.store.tasks import EMIT_TASKS, MODALITY_OF

SHOWN_SIDE = 512  # pixels of the longer side of an inspected picture, at most
FOLDER = {"greedy": ".", "sampled": "sampled"}

Rows = list[dict[str, Any]]
Sets = Mapping[str, Sequence[Record]]
Made = Mapping[tuple[str, str], Outputs]
Load = Callable[[str, Record], np.ndarray]


def write_step(
    made: Made, decoder: Decoder, sets: Sets, setting: DecodingSettings, step: int, folder: Path
) -> dict[tuple[str, str], Rows]:
    """Writes all golden sets, as generated, below `folder`, qual/step_<k>; rows by (task, decoding)."""
    rows: dict[tuple[str, str], Rows] = {}
    summaries = []
    for (task, decoding), outputs in made.items():
        below = folder / FOLDER[decoding]
        below.mkdir(parents=True, exist_ok=True)
        written = output_rows(decoder, sets[task], outputs.golden, setting, step, decoding, below)
        write_jsonl(below / f"step_{step}_golden_{task}.jsonl", written)
        summaries.append(summary(written, free_rates(decoder.space, sets[task], outputs.free, setting)))
        rows[task, decoding] = written
    write_json(folder / "golden_summary.json", {"step": step, "summaries": summaries})
    return rows


def random_weights(model, seed: int) -> None:
    """Overwrites every matrix with noise: what such a model emits is valid only by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                noise = torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5
                parameter.copy_(noise.to(parameter.device, parameter.dtype))


def random_control(made: Made, decoder: Decoder, sets: Sets, setting: DecodingSettings) -> list[dict[str, Any]]:
    """Summaries of t2a and t2i by a model of random weights, every output decoded, none kept."""
    return [
        summary(output_rows(decoder, sets[task], outputs.golden, setting, 0, decoding, None), None)
        for (task, decoding), outputs in made.items()
    ]


def write_reconstructions(
    decoder: Decoder, sets: Sets, setting: DecodingSettings, folder: Path
) -> dict[str, dict[str, Any]]:
    """Decodes the stored codes of t2a and t2i, with their own meta, below `folder`.

    Returns, by record id, {"path"} and for sounds also {"rms", "clipped"}: what B4 compares outputs with.
    """
    reconstructions: dict[str, dict[str, Any]] = {}
    for task, records in sets.items():
        for record in records:
            if task not in EMIT_TASKS:
                continue
            path = reconstruction_path(task, record["id"])
            if task == "t2a":
                wave = decode_audio(decoder.codecs, decoder.space, np.asarray(record["target_ids"]), record["meta"])
                write_wav(folder / path, wave, decoder.codecs.audio.sample_rate)
                level = float(np.sqrt(np.mean(wave**2)))
                reconstructions[record["id"]] = {"path": path, "rms": level, "clipped": clipped_share(wave)}
            else:
                seed = item_seed(setting.seed, record["id"])
                write_png(
                    folder / path,
                    decode_image(decoder.codecs, decoder.space, np.asarray(record["target_ids"]), seed),
                )
                reconstructions[record["id"]] = {"path": path}
    return reconstructions


def reconstruction_path(task: str, record_id: str) -> str:
    kind, suffix = ("audio", "wav") if MODALITY_OF[task] == "audio" else ("image", "png")
    return f"reconstruction/{task}_{kind}/{safe_name(record_id)}.{suffix}"


def write_shown(decoder: Decoder, sets: Sets, load: Load | None, setting: DecodingSettings, folder: Path) -> None:
    """The media of a2t and i2t below `folder`, for a person to judge the captions by.

    Args:
        load: (task, record) -> the medium as the codec gets it; None in a run without media, where the codes are
        decoded.
    """
    for task in (task for task in sets if task not in EMIT_TASKS):
        for record in sets[task]:
            ids, path = np.asarray(record["prompt_ids"]), folder / reconstruction_path(task, record["id"])
            if MODALITY_OF[task] == "audio":
                wave = load(task, record) if load else decode_audio(decoder.codecs, decoder.space, ids, record["meta"])
                write_wav(path, wave, decoder.codecs.audio.sample_rate)
            elif load:
                picture = Image.fromarray(load(task, record))
                picture.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
                write_png(path, np.asarray(picture))
            else:
                write_png(path, decode_image(decoder.codecs, decoder.space, ids, item_seed(setting.seed, record["id"])))


def write_inspect(sets: Sets, rows: Mapping[tuple[str, str], Rows], folder: Path) -> None:
    """`inspect/<task>/<id>/` of each golden item: what was asked, the greedy output and the ground truth, side by side.

    folder: qual/step_<k> of the last checkpoint, which has the ground truths.
    """
    for task, records in sets.items():
        for record, row in zip(records, rows[task, "greedy"], strict=True):
            place = folder / "inspect" / task / safe_name(record["id"])
            place.mkdir(parents=True)
            medium = folder / reconstruction_path(task, record["id"])
            if task in EMIT_TASKS:
                (place / "prompt.txt").write_text(record["caption"] + "\n", encoding="utf-8")
                shutil.copyfile(medium, place / f"reconstruction{medium.suffix}")
                if row["path"]:
                    shutil.copyfile(folder / row["path"], place / f"generated{medium.suffix}")
            else:
                shutil.copyfile(medium, place / f"input{medium.suffix}")
                (place / "generated.txt").write_text(row["text"] + "\n", encoding="utf-8")
                (place / "ground_truth.txt").write_text(record["caption"] + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Written:
    """A checkpoint's outputs on disk: `folder` is qual/step_<k>."""

    step: int
    folder: Path
    rows: Mapping[tuple[str, str], Rows]


def artifact_metrics(
    decoder: Decoder, written: Sequence[Written], reconstructions: Mapping[str, dict[str, Any]]
) -> list[Metric]:
    """B4. Form is asked of all; silence, constancy and clipping of the last checkpoint's greedy outputs, which are
    meant to be good: a draw at temperature 1 may be silence, and Q2 looks at those.
    """
    metrics = []
    for task in EMIT_TASKS:
        counts: Counter[str] = Counter()
        looked = judged = 0
        for one in written:
            for decoding, below in FOLDER.items():
                for row in one.rows.get((task, decoding), ()):
                    faults = _file_faults(decoder, task, one.folder / below, row, reconstructions[row["id"]])
                    formal = {"missing", "unreadable", "wrong_form"}
                    meant = one is written[-1] and decoding == "greedy"
                    counts.update(fault for fault in faults if meant or fault in formal)
                    looked, judged = looked + 1, judged + meant
        if looked:
            content = ("constant", "silent", "clipped") if task == "t2a" else ("constant",)
            metrics += [
                Metric(f"{name}_files", counts[name], n, "files", "lower", slice=task)
                for names, n in ((("missing", "unreadable", "wrong_form"), looked), (content, judged))
                for name in names
            ]
    return metrics


def _file_faults(
    decoder: Decoder, task: str, folder: Path, row: Mapping[str, Any], reconstruction: Mapping[str, Any]
) -> list[str]:
    if row["path"] is None:
        return ["missing"]
    if task == "t2i":
        side = decoder.codecs.image.decode_size
        return png_faults(folder / row["path"], size=(side, side))
    codec = decoder.codecs.audio
    frames = row["target_len"] // decoder.space.stream.width
    exact = codec.samples(frames) if hasattr(codec, "samples") else None
    faults = wav_faults(
        folder / row["path"],
        rate=codec.sample_rate,
        channels=codec.channels,
        samples=exact,
        reconstruction_rms=reconstruction["rms"],
        reconstruction_clipped=reconstruction["clipped"],
    )
    readable = not {"missing", "unreadable"} & set(faults)
    if exact is None and readable and codec.frames(soundfile.info(folder / row["path"]).frames) != frames:
        faults.append("wrong_form")
    return faults


def decode_metrics(sets: Sets, summaries: Sequence[Mapping[str, Any]], expected: int) -> list[Metric]:
    """C1 over all `summaries` (checkpoints, decodings and the random control), `expected` of them a task."""
    metrics = []
    for task in EMIT_TASKS:
        mine = [one for one in summaries if one["task"] == task]
        if task not in sets:
            continue
        total = sum(one["total"] for one in mine)
        decoded = sum(one["decoded"] for one in mine)
        metrics += [
            Metric(
                "decode_success_rate",
                decoded / total if total else None,
                total,
                "share",
                "higher",
                slice=task,
            ),
            Metric(
                "ids_out_of_range",
                sum(one["ids_out_of_range"] for one in mine),
                total,
                "ids",
                "lower",
                slice=task,
            ),
            Metric(
                "length_mismatches",
                sum(one["length_mismatches"] for one in mine),
                total,
                "items",
                "lower",
                slice=task,
            ),
            Metric(
                "golden_items_missing",
                expected * len(sets[task]) - total,
                expected * len(sets[task]),
                "items",
                "lower",
                slice=task,
            ),
        ]
    return metrics


def summaries_of(folder: Path) -> list[dict[str, Any]]:
    """The entries of a written golden_summary.json."""
    return read_json(folder / "golden_summary.json")["summaries"]
