"""Sounds whose length the model chooses, and gate E1's measure of them: does an output end, and when.

Golden sets ask for the ground truth's length, so they say nothing of a model that never ends, ends at once or goes on
in silence. Here the end token is allowed at every frame boundary between a least and a most length, and an output
that reaches the most has not ended. Several samples of each golden prompt, each with its own seed; one greedy output
of each beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs.protocol import AudioCodec, frames_of
from mmpt.evaluate.golden import Decoder, DecodingSettings, Piece, Wanted, medium_path
from mmpt.evaluate.media import write_wav
from mmpt.evaluate.sets import Record, decode_audio
from mmpt.evaluate.statistics import clopper_pearson
from mmpt.generate import Generated
from mmpt.store.errors import UserError
from mmpt.store.evidence import Metric

OUTPUTS = 300  # with none among them that does not end, the upper 95 % end of the share is 0.99 %
LONGEST = 2  # times a whole clip: the most frames where the profile names no other
FOLDER = "learned_end"
BATCHES = 8  # of outputs in a piece: they end at different steps, and free slots take the next
SILENT_DB = -40.0  # of the loudest window: quieter ones are silence
WINDOW = 0.02  # seconds


@dataclass(frozen=True)
class LearnedEnd:
    """Between how many frames the model may end a sound, and how many outputs are drawn at temperature 1."""

    least: int
    most: int
    outputs: int

    @property
    def frames(self) -> tuple[int, int]:
        """(least, most), as the grammar takes them."""
        return self.least, self.most

    @classmethod
    def of(cls, section: Mapping[str, Any], codec: AudioCodec, clip_seconds: float) -> LearnedEnd:
        """From the profile's `generate` section; by default from one frame to LONGEST times a whole clip.

        Raises:
            UserError: a least length above the most.
        """
        asked = section.get("learned_end", {})

        def frames(seconds: float) -> int:
            return frames_of(codec, seconds)

        least = frames(asked["min_seconds"]) if "min_seconds" in asked else 1
        most = frames(asked["max_seconds"]) if "max_seconds" in asked else LONGEST * frames(clip_seconds)
        if least >= most:
            raise UserError(
                "no room for an end between the two lengths",
                where="generate.learned_end",
                found=f"{least} frames at least, {most} at most",
                expected="max_seconds above min_seconds by a frame or more",
            )
        return cls(least, most, asked.get("outputs", OUTPUTS))


def ending_pieces(records: Sequence[Record], asked: LearnedEnd, setting: DecodingSettings, width: int) -> list[Piece]:
    """`asked.outputs` samples, prompt by prompt and round by round, then one greedy output of each prompt.

    width: ids per frame.
    """
    if not records:
        return []
    drawn = [
        Wanted(records[i % len(records)], "sampled", False, asked.frames, i // len(records))
        for i in range(asked.outputs)
    ]
    wanted = [*drawn, *(Wanted(record, "greedy", False, asked.frames) for record in records)]
    step = setting.batch_size * BATCHES
    guided = setting.guidance != 1.0
    parts = [tuple(wanted[start : start + step]) for start in range(0, len(wanted), step)]
    return [Piece(part, guided, len(part) * asked.most * width) for part in parts]


def ending_rows(
    made: Sequence[tuple[Piece, Sequence[Generated]]], decoder: Decoder, step: int, folder: Path
) -> list[dict[str, Any]]:
    """One row for each output (schema learned_end_output). The first sample and the greedy output of each prompt are
    decoded, the former below `folder`, and their silent tails measured.
    """
    rows = []
    for piece, outputs in made:
        for wanted, output in zip(piece.wanted, outputs, strict=True):
            row = {
                "id": wanted.record["id"],
                "decoding": wanted.decoding,
                "take": wanted.take,
                "caption": wanted.record["caption"],
                "frames": len(output.ids) // decoder.space.stream.width,
                "ground_truth_frames": int(wanted.record["n_frames"]),
                "ended": output.ended,
                "ids": output.ids.tolist() if wanted.decoding == "greedy" else None,
                "path": None,
                "silent_tail_seconds": None,
                "ground_truth_tail_seconds": None,
            }
            if wanted.take == 0 and len(output.ids):
                row |= _decoded(decoder, wanted, output.ids, step, folder)
            rows.append(row)
    return rows


def _decoded(decoder: Decoder, wanted: Wanted, ids: np.ndarray, step: int, folder: Path) -> dict[str, Any]:
    codec, record = decoder.codecs.audio, wanted.record
    wave = decode_audio(decoder.codecs, decoder.space, ids)
    truth = decode_audio(decoder.codecs, decoder.space, np.asarray(record["target_ids"]), record["meta"])
    found: dict[str, Any] = {
        "silent_tail_seconds": round(silent_tail(wave, codec.sample_rate), 3),
        "ground_truth_tail_seconds": round(silent_tail(truth, codec.sample_rate), 3),
    }
    if wanted.decoding == "sampled":
        path = medium_path("t2a", step, record["id"])
        write_wav(folder / path, wave, codec.sample_rate)
        found["path"] = path
    return found


def silent_tail(wave: np.ndarray, sample_rate: int) -> float:
    """Seconds at the end of a wave, float [C, T], whose windows are SILENT_DB below the loudest one; all of a wave of
    zeros.
    """
    size = max(1, round(WINDOW * sample_rate))
    mono = wave.mean(0)
    count = -(-len(mono) // size)
    windows = np.pad(mono, (0, count * size - len(mono))).reshape(count, size)
    power = (windows**2).mean(1)
    threshold = power.max() * 10 ** (SILENT_DB / 10)
    loud = np.flatnonzero(power > threshold) if power.max() > 0 else np.zeros(0, np.int64)
    return (len(mono) - (int(loud[-1]) + 1) * size) / sample_rate if len(loud) else len(mono) / sample_rate


def ending_metrics(rows: Sequence[Mapping[str, Any]], frame_rate: float) -> list[Metric]:
    """E1 by decoding: no_end_share with its interval, the median ratio of durations, how far it is off, and how much
    more of an output is silence at its end than of its ground truth, in the mean.

    The ends of the interval are one-sided 95 % bounds (Clopper and Pearson, 1934): 0 of 300 give 0.99 %, 4 of 1,000
    0.91 %.
    """
    metrics = []
    for decoding in dict.fromkeys(row["decoding"] for row in rows):
        mine = [row for row in rows if row["decoding"] == decoding]
        n, part = len(mine), f"t2a.{decoding}"
        without = sum(not row["ended"] for row in mine)
        low, high = clopper_pearson(without, n)
        ratio = float(np.median([row["frames"] / row["ground_truth_frames"] for row in mine]))
        heard = [row for row in mine if row["silent_tail_seconds"] is not None]
        excess = [
            row["silent_tail_seconds"] / row["frames"] - row["ground_truth_tail_seconds"] / row["ground_truth_frames"]
            for row in heard
        ]
        metrics += [
            Metric("no_end_share", without / n, n, "share", "lower", low, high, part),
            Metric("duration_ratio", ratio, n, "x", "none", slice=part),
            Metric("duration_off", abs(ratio - 1), n, "share", "lower", slice=part),
            Metric(
                "silent_tail_excess",
                float(np.mean(excess)) * frame_rate if excess else None,
                len(excess),
                "share",
                "lower",
                slice=part,
            ),
        ]
    return metrics
