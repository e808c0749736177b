"""Golden generation: every golden prompt decoded to a caption, wav or png, greedy and at temperature 1.

Names are the spec's, below `qual/step_<k>/`; sampled outputs lie in its `sampled/` under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.sets import (
    Codecs,
    Record,
    decode_audio,
    decode_image,
    free_grammar,
    item_seed,
    record_grammar,
    record_prompt,
    safe_name,
)
from mmpt.generate import Generated, generate, opened, reserve
from mmpt.store.errors import UserError
from mmpt.store.tasks import EMIT_TASKS
from mmpt.tokens import Grammar, TokenSpace, check, grammar, prompt

TEMPERATURE = {"greedy": 0.0, "sampled": 1.0}
BATCHES = 2  # of outputs in a piece


@dataclass(frozen=True)
class DecodingSettings:
    """How golden sets are generated: the run's seed, and the profile's `generate` section."""

    seed: int
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    batch_size: int = 64
    max_text_tokens: int = 40


@dataclass(frozen=True)
class Decoder:
    """What turns ids into something to look at: the token space, the codecs and the tokenizer."""

    space: TokenSpace
    codecs: Codecs
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Outputs:
    """A task's outputs under one decoding, one per record; `free`: the same with the vocabulary open."""

    golden: list[Generated]
    free: list[Generated]


@dataclass(frozen=True)
class Wanted:
    """One output to make: a golden record under one decoding; `free`: with the vocabulary open.

    frames: (least, most) of a sound whose end the model chooses; None: the record's own length.
    take: number of the sample of one record, each with its own seed.
    """

    record: Record
    decoding: str
    free: bool
    frames: tuple[int, int] | None = None
    take: int = 0

    def seed(self, run_seed: int) -> int:
        """Of the draw; the first take of a golden output needs no more than its record and decoding."""
        more = () if self.frames is None else ("learned end", self.take)
        return item_seed(run_seed, self.record["task"], self.record["id"], self.decoding, *more)


@dataclass(frozen=True)
class Piece:
    """Outputs that are decoded in one go. What is in a piece depends on golden sets and setting alone, so that
    every worker decodes it to the same outputs. `guided`: with guidance, if the setting asks for it.
    """

    wanted: tuple[Wanted, ...]
    guided: bool
    size: int  # ids to decode, at most


def generate_golden(
    model,
    space: TokenSpace,
    sets: Mapping[str, Sequence[Record]],
    setting: DecodingSettings,
    *,
    decodings: Sequence[str] = tuple(TEMPERATURE),
    free: bool = True,
) -> dict[tuple[str, str], Outputs]:
    """All tasks under all decodings, by (task, decoding), each output from its own seed.

    Guidance applies to t2a and t2i under the grammar.
    """
    pieces = golden_pieces(space, sets, setting, decodings=decodings, free=free)
    return assembled(sets, [(piece, run_piece(model, space, piece, setting)) for piece in pieces])


def golden_pieces(
    space: TokenSpace,
    sets: Mapping[str, Sequence[Record]],
    setting: DecodingSettings,
    *,
    decodings: Sequence[str] = tuple(TEMPERATURE),
    free: bool = True,
) -> list[Piece]:
    """All outputs in pieces of like length: few, because the last outputs of each leave slots empty."""
    wanted = [
        Wanted(record, decoding, is_free)
        for records in sets.values()
        for record in records
        for decoding in decodings
        for is_free in ((False, True) if free else (False,))
    ]
    grammars = [_grammar(space, w, setting) for w in wanted]
    keys = [(_guided(w, setting), -int((g.hi - g.lo).max()), -g.max_len) for w, g in zip(wanted, grammars, strict=True)]
    pieces = []
    for guided in (False, True):
        order = sorted((i for i, key in enumerate(keys) if key[0] == guided), key=lambda i: (keys[i], i))
        for start in range(0, len(order), step := setting.batch_size * BATCHES):
            chosen = order[start : start + step]
            size = sum(grammars[i].max_len for i in chosen)
            pieces.append(Piece(tuple(wanted[i] for i in chosen), guided, size))
    return pieces


def _guided(wanted: Wanted, setting: DecodingSettings) -> bool:
    return wanted.record["task"] in EMIT_TASKS and not wanted.free and setting.guidance != 1.0


def _grammar(space: TokenSpace, wanted: Wanted, setting: DecodingSettings) -> Grammar:
    if wanted.frames is not None:
        return grammar(space, wanted.record["task"], frames=wanted.frames)
    if wanted.free:
        return opened(free_grammar(space, wanted.record, setting.max_text_tokens), space.vocab_size_total)
    return record_grammar(space, wanted.record, setting.max_text_tokens)


def run_piece(model, space: TokenSpace, piece: Piece, setting: DecodingSettings) -> list[Generated]:
    """The outputs of a piece, in its order."""
    wanted = piece.wanted
    return generate(
        model,
        *_asked(space, piece, setting),
        temperature=[TEMPERATURE[w.decoding] for w in wanted],
        top_k=[0 if w.free else setting.top_k for w in wanted],
        top_p=[1.0 if w.free else setting.top_p for w in wanted],
        seeds=[w.seed(setting.seed) for w in wanted],
        **_batching(space, piece, setting),
    )


def reserve_piece(model, space: TokenSpace, piece: Piece, setting: DecodingSettings) -> None:
    """Allocate what `run_piece` allocates at its most; see `mmpt.generate.reserve`."""
    reserve(model, *_asked(space, piece, setting), **_batching(space, piece, setting))


def _asked(space: TokenSpace, piece: Piece, setting: DecodingSettings) -> tuple[list[np.ndarray], list[Grammar]]:
    prompts = [record_prompt(space, w.record) for w in piece.wanted]
    return prompts, [_grammar(space, w, setting) for w in piece.wanted]


def _batching(space: TokenSpace, piece: Piece, setting: DecodingSettings) -> dict[str, Any]:
    return {
        "guidance": setting.guidance if piece.guided else 1.0,
        "batch_size": setting.batch_size,
        "empty_prompts": [prompt(space, w.record["task"], []) for w in piece.wanted] if piece.guided else (),
    }


def assembled(
    sets: Mapping[str, Sequence[Record]], made: Sequence[tuple[Piece, Sequence[Generated]]]
) -> dict[tuple[str, str], Outputs]:
    """Outputs by (task, decoding), in the order of the golden records."""
    found = {
        (w.record["task"], w.record["id"], w.decoding, w.free): output
        for piece, outputs in made
        for w, output in zip(piece.wanted, outputs, strict=True)
    }
    keys = dict.fromkeys((task, decoding) for task, _, decoding, _ in found)
    order = {task: place for place, task in enumerate(sets)}
    return {
        (task, decoding): Outputs(
            *(
                [
                    found[task, record["id"], decoding, is_free]
                    for record in sets[task]
                    if (task, record["id"], decoding, is_free) in found
                ]
                for is_free in (False, True)
            )
        )
        for task, decoding in sorted(keys, key=lambda key: (order[key[0]], list(TEMPERATURE).index(key[1])))
    }


def free_rates(
    space: TokenSpace, records: Sequence[Record], outputs: Sequence[Generated], setting: DecodingSettings
) -> dict[str, Any]:
    """What the grammar hides: of outputs with the whole vocabulary open, how many are valid, how many end."""
    valid = [
        one.ended and fault(free_grammar(space, record, setting.max_text_tokens), one.ids) is None
        for record, one in zip(records, outputs, strict=True)
    ]
    return {"n": len(records), "valid": sum(valid), "ended": sum(one.ended for one in outputs)}


def fault(grammar, ids: np.ndarray) -> str | None:
    """Why the grammar refuses a payload, or None."""
    try:
        check(grammar, ids)
    except UserError as error:
        return str(error)
    return None


def output_rows(
    decoder: Decoder,
    records: Sequence[Record],
    outputs: Sequence[Generated],
    setting: DecodingSettings,
    step: int,
    decoding: str,
    folder: Path | None,
) -> list[dict[str, Any]]:
    """One row per record (schema golden_output), its medium written below `folder`; None: decoded, not kept."""
    rows = []
    for record, output in zip(records, outputs, strict=True):
        grammar = record_grammar(decoder.space, record, setting.max_text_tokens)
        row = {
            "id": record["id"],
            "task": record["task"],
            "source": record["source"],
            "group": record["group"],
            "step": step,
            "decoding": decoding,
            "caption": record["caption"],
            "attributes": record["attributes"],
            "mentioned": record["mentioned"],
            "target_len": len(record["target_ids"]),
            "generated_len": len(output.ids),
            "ended": output.ended,
            "legal_mass": round(output.legal_mass, 6),
            "ids": output.ids.tolist(),
            "fault": fault(grammar, output.ids),
            "out_of_range": _out_of_range(grammar, output.ids),
            "length_exact": grammar.may_stop(len(output.ids)),
            "decode_error": None,
            "path": None,
            "text": None,
        }
        row.update(_decoded(decoder, record, output.ids, setting, step, folder))
        rows.append(row)
    return rows


def _out_of_range(grammar, ids: np.ndarray) -> int:
    inside = ids[: grammar.max_len]
    bad = (inside < grammar.lo[: len(inside)]) | (inside >= grammar.hi[: len(inside)])
    return int(bad.sum()) + max(0, len(ids) - grammar.max_len)


def _decoded(
    decoder: Decoder, record: Record, ids, setting: DecodingSettings, step: int, folder: Path | None
) -> dict[str, Any]:
    task = record["task"]
    if task not in EMIT_TASKS:
        return {"text": decoder.tokenizer.decode(ids.tolist()).strip()}
    try:
        if task == "t2a":
            wave = decode_audio(decoder.codecs, decoder.space, ids)
        else:
            pixels = decode_image(decoder.codecs, decoder.space, ids, item_seed(setting.seed, record["id"]))
    except UserError as error:
        return {"decode_error": str(error)}
    path = medium_path(task, step, record["id"])
    if folder is not None and task == "t2a":
        write_wav(folder / path, wave, decoder.codecs.audio.sample_rate)
    elif folder is not None:
        write_png(folder / path, pixels)
    return {"path": path if folder is not None else None}


def medium_path(task: str, step: int, record_id: str) -> str:
    """`step_<k>_t2a_audio/<id>.wav` or `step_<k>_t2i_image/<id>.png`."""
    kind, suffix = ("audio", "wav") if task == "t2a" else ("image", "png")
    return f"step_{step}_{task}_{kind}/{safe_name(record_id)}.{suffix}"


def summary(rows: Sequence[dict[str, Any]], free: dict[str, Any] | None) -> dict[str, Any]:
    """One entry of golden_summary.json: a task under one decoding."""
    bad = [row for row in rows if row["decode_error"] or row["fault"]]
    return {
        "task": rows[0]["task"],
        "decoding": rows[0]["decoding"],
        "total": len(rows),
        "decoded": len(rows) - len(bad),
        "failures": [{"id": row["id"], "error": row["decode_error"] or row["fault"]} for row in bad],
        "ids_out_of_range": sum(row["out_of_range"] for row in rows),
        "length_mismatches": sum(not row["length_exact"] for row in rows),
        "ended": sum(row["ended"] for row in rows),
        "legal_mass": round(float(np.mean([row["legal_mass"] for row in rows])), 6),
        "unconstrained": free,
    }
