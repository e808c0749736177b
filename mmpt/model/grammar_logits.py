"""Makes transformers and vLLM keep to the decode grammar of an exported model.

This file stands alone: it needs torch, and token_space.json and grammar.json beside it.

    transformers   model.generate(ids, logits_processor=[Grammar()], max_new_tokens=Grammar().most("t2i"))
    vLLM (V1)      LLM(folder, logits_processors=["grammar_logits:GrammarForVLLM"]), this folder on PYTHONPATH

Where the end of a row reads <|gen_aud|><|aud_start|>, <|gen_img|><|img_start|> or <|gen_text|><|text_start|>
and a payload so far, the next id is held to what may follow: audio ids of the codebook whose turn it is, and
the end on a frame boundary only; image ids, exactly as many as a picture has; text ids up to a limit. Other
rows are left as they are, so the same model still writes plain text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
TASKS = {  # task: what is given, start and end of it; the token that asks, start and end of what comes out
    "a2t": ("aud_start", "aud_end", "gen_text", "text_start", "text_end"),
    "i2t": ("img_start", "img_end", "gen_text", "text_start", "text_end"),
    "t2a": ("text_start", "text_end", "gen_aud", "aud_start", "aud_end"),
    "t2i": ("text_start", "text_end", "gen_img", "img_start", "img_end"),
}


def rows_in_order(serialization: str | None, rows: int, frames: int) -> list[int]:
    """The row of codes at each position of a sound; frame by frame those of one frame, which come again."""
    if serialization == "flatten_by_codebook":
        return [row for row in range(rows) for _ in range(frames)]
    if serialization == "flatten_delayed_codebooks":
        return [row for step in range(frames + rows - 1) for row in range(rows) if 0 <= step - row < frames]
    return list(range(rows))


class Grammar:
    """The grammar of one token space; a logits processor of transformers.

    Args:
        folder: where token_space.json and grammar.json are.
        audio_frames, text_tokens: (least, most), instead of those in grammar.json. least = most is an exact
            length; otherwise the model ends where it likes in between.
        learned_end: sounds end where the model ends them, between the lengths of `audio_frames_learned_end` in
            grammar.json, instead of after exactly `audio_frames`. Both need an order frame by frame.

    Raises:
        ValueError: no exact length, where the length decides what stands at a position.
    """

    def __init__(
        self,
        folder: Path | str = HERE,
        *,
        audio_frames: tuple[int, int] | None = None,
        text_tokens: tuple[int, int] | None = None,
        learned_end: bool = False,
    ):
        space = json.loads(Path(folder, "token_space.json").read_text())
        lengths = json.loads(Path(folder, "grammar.json").read_text())
        self.special = {name.strip("<|>"): token for name, token in space["special_tokens"].items()}
        ranges = {name: (r["start"], r["end"] + 1) for name, r in space["ranges"].items()}
        audio = sorted(bounds for name, bounds in ranges.items() if name.startswith("AUDIO_CB"))
        codec = space.get("audio_codec") or {}
        audio = [audio[book] for book in codec.get("row_codebooks") or range(len(audio))]
        images = lengths["image_tokens"]
        # Start token of a payload: (token before it, segments, least, most, end token).
        self.kinds: dict[int, tuple] = {}
        if audio:
            key = "audio_frames_learned_end" if learned_end else "audio_frames"
            bounds = audio_frames or lengths.get(key)
            if bounds is None:
                raise ValueError(f"grammar.json has no {key}: this model's sounds have the length that is asked for")
            least, most = bounds
            rows = rows_in_order(codec.get("serialization"), len(audio), most)
            if len(rows) > len(audio) and least != most:
                raise ValueError(f"{codec['serialization']}: a sound has one length, not {least} to {most} frames")
            segments = [audio[row] for row in rows]
            self._add("gen_aud", "aud_start", segments, least * len(audio), most * len(audio), "aud_end")
        if "IMAGE" in ranges:
            self._add("gen_img", "img_start", [ranges["IMAGE"]], images, images, "img_end")
        least, most = text_tokens or lengths["text_tokens"]
        self._add("gen_text", "text_start", [ranges["TEXT"]], least, most, "text_end")

    def _add(self, ask: str, start: str, segments: list, least: int, most: int, end: str) -> None:
        ids = self.special
        self.kinds[ids[start]] = (ids[ask], segments, least, most, ids[end])

    def prompt(self, task: str, ids: Sequence[int]) -> list[int]:
        """A whole prompt around text ids (t2a, t2i) or image or audio ids (i2t, a2t)."""
        head, tail, ask, start, _ = (self.special[name] for name in TASKS[task])
        return [head, *ids, tail, ask, start]

    def end(self, task: str) -> int:
        """The id that ends what the task puts out."""
        return self.special[TASKS[task][4]]

    def most(self, task: str) -> int:
        """max_new_tokens for a task: its longest payload and the end token."""
        return self.kinds[self.special[TASKS[task][3]]][3] + 1

    def allowed(self, ids: Sequence[int]) -> tuple[int, int, int] | None:
        """(lo, hi, extra): the next id lies in [lo, hi) or is extra (-1: none). None: anything may follow."""
        for place in range(len(ids) - 1, 0, -1):
            if ids[place] in self.kinds:
                ask, segments, least, most, end = self.kinds[ids[place]]
                done = len(ids) - place - 1
                if ids[place - 1] != ask or end in ids[place + 1 :]:
                    return None
                if done >= most:
                    return end, end + 1, -1
                lo, hi = segments[done % len(segments)]
                return lo, hi, end if done >= least and done % len(segments) == 0 else -1
        return None

    def mask(self, ids: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        """logits [V] of the id that follows `ids`, -inf where it may not stand."""
        bounds = self.allowed(ids)
        if bounds is None:
            return logits
        lo, hi, extra = bounds
        masked = torch.full_like(logits, -torch.inf)
        masked[lo:hi] = logits[lo:hi]
        if extra >= 0:
            masked[extra] = logits[extra]
        return masked

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """transformers: input_ids [B, L], prompt and output so far, padded on the left; scores [B, V]."""
        return torch.stack([self.mask(ids, row) for ids, row in zip(input_ids.tolist(), scores, strict=True)])

    def request(self, prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
        """vLLM: the same for one request; logits [V]."""
        return self.mask([*prompt_ids, *output_ids], logits)


def __getattr__(name: str):
    """GrammarForVLLM, made when vLLM asks for it: its base class exists only where vLLM is installed."""
    if name != "GrammarForVLLM":
        raise AttributeError(name)
    from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

    class GrammarForVLLM(AdapterLogitsProcessor):
        grammar = Grammar()

        def is_argmax_invariant(self) -> bool:
            return False

        def new_req_logits_processor(self, params):
            return self.grammar.request

    return GrammarForVLLM
