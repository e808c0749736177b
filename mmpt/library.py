"""The library interface to a trained model: a run's artifact folder, or a folder that `doit export` wrote.

run = mmpt.load("artifacts/smoke")
ids = run.generate("a red circle", task="t2i")      # int32, valid by construction
run.decode(ids)                                     # uint8 [H, W, 3]; of audio ids float32 [C, T]; of text a str
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from mmpt.codecs import registry
from mmpt.codecs.media import load_clip, load_image
from mmpt.codecs.protocol import encode_rate
from mmpt.evaluate.checkpoint import EvalContext, Trained
from mmpt.evaluate.media import write_png, write_wav
from mmpt.evaluate.sets import Codecs, decode_audio, decode_image
from mmpt.generate import PlainModel, generate
from mmpt.model.runtimes import open_plain
from mmpt.ops import adopt
from mmpt.shards.tokenizer_file import open_tokenizer_file
from mmpt.store.canonical import read_json
from mmpt.store.errors import UserError
from mmpt.store.tasks import EMIT_TASKS, TASKS
from mmpt.tokens import Grammar, TokenSpace, grammar, prompt
from mmpt.tokens import load as load_space

NEEDED = ("base", "token_space", "codecs", "train", "staged_export")  # stages that a run's folder must have


def load(folder: Path | str, *, checkpoint: str = "final", device: str = "cpu", dtype: str | None = None) -> Run:
    """Open a finished run, whatever its decision, or an exported folder.

    Args:
        folder: artifacts/NAME of a run, or what `doit export --to` wrote.
        checkpoint: of a run: "final" or "step_<k>".
        device: "cpu" or "cuda". dtype: "float32" or "bfloat16"; default: that of the weights.

    Raises:
        UserError: a folder that is neither, a run that is not finished, an unknown checkpoint.
    """
    folder = Path(folder)
    if (folder / "grammar.json").is_file() and (folder / "config.json").is_file():
        return _exported(folder, device, dtype)
    missing = [name for name in NEEDED if not (folder / name / "data").is_dir()]
    if len(missing) == len(NEEDED):
        raise UserError(
            "neither a run nor an export", where=folder, expected="artifacts/NAME, or what doit export wrote"
        )
    if missing:
        raise UserError("this run is not finished", where=folder, found=f"no stage {missing[0]}", fix="run doit first")
    return _trained(folder, checkpoint, device, dtype)


@dataclass(frozen=True)
class Run:
    """A model with its tokenizer, codecs and token space.

    Attributes:
        space: which id means what. tokenizer: of the text ids. codecs: `audio` and `image`, None where there is none.
        lengths: text_tokens and audio_frames (least, most), image_tokens, audio_frames_learned_end.
        model: what `mmpt.generate.generate` takes.
        seconds: to which a recording is cut before it is encoded; None: it is not.
    """

    space: TokenSpace
    tokenizer: Tokenizer
    codecs: Codecs
    lengths: Mapping[str, Any]
    model: Any
    seconds: float | None

    def generate(
        self,
        given: Any,
        *,
        task: str,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        guidance: float = 1.0,
        seed: int = 0,
        learned_end: bool = False,
    ) -> Any:
        """The payload's ids, int32 [n] without the end token; for a list of prompts a list of them.

        Args:
            given: t2a, t2i: a text. a2t, i2t: a file, a float32 [channels, T] wave at the codec's rate, or a uint8
                [H, W, 3] picture.
            temperature, top_k, top_p, guidance: as of `mmpt.generate.generate`; temperature 0 is greedy.
            seed: of the draw; the n-th prompt of a list is drawn from seed + n.
            learned_end: let the model end a sound, instead of after a whole clip.

        Raises:
            UserError: an unknown task, one whose codec is not there, a medium that cannot be read.
        """
        if task not in TASKS:
            raise UserError("unknown task", found=repr(task), expected=", ".join(TASKS))
        many = list(given) if isinstance(given, list | tuple) else [given]
        prompts = [prompt(self.space, task, self._source(task, one)) for one in many]
        guided = guidance != 1.0 and task in EMIT_TASKS
        made = generate(
            self.model,
            prompts,
            [self.grammar(task, learned_end=learned_end)] * len(many),
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            seeds=[seed + place for place in range(len(many))],
            guidance=guidance if guided else 1.0,
            empty_prompts=[prompt(self.space, task, [])] * len(many) if guided else (),
            measure_mass=False,
        )
        ids = [one.ids for one in made]
        return ids if isinstance(given, list | tuple) else ids[0]

    def grammar(self, task: str, *, learned_end: bool = False) -> Grammar:
        """What `generate` allows: a whole clip, a whole picture, or a text up to the run's longest."""
        frames = self.lengths.get("audio_frames_learned_end" if learned_end else "audio_frames")
        text, image = tuple(self.lengths["text_tokens"]), self.lengths.get("image_tokens")
        frames = None if frames is None else (int(frames[0]), int(frames[1]))
        return grammar(self.space, task, frames=frames, tokens_per_image=image, text=text)

    def encode(self, medium: Any, modality: str) -> np.ndarray:
        """Ids int32 [n] of a file or an array, as `generate` takes them; modality: "audio" or "image"."""
        codec = self._codec(modality)
        if modality == "image":
            pixels = load_image(Path(medium)) if isinstance(medium, str | Path) else medium
            return self.space.image_to_global(codec.encode([pixels])[0])
        if isinstance(medium, str | Path):
            medium = load_clip(Path(medium), encode_rate(codec), codec.channels, self.seconds)[0]
        return self.space.audio_to_global(codec.encode([medium])[0].codes)

    def decode(self, ids: Sequence[int] | np.ndarray, seed: int = 0) -> Any:
        """What a payload's ids are: uint8 [H, W, 3], float32 [channels, T] at `codecs.audio.sample_rate`, or a text.

        seed: of image codecs that paint with noise.

        Raises:
            UserError: ids of several kinds, or no whole picture or frames.
        """
        ids = np.asarray(ids)
        kind = self._kind(ids)
        if kind != "text":
            self._codec(kind)
            image = kind == "image"
            return (
                decode_image(self.codecs, self.space, ids, seed)
                if image
                else decode_audio(self.codecs, self.space, ids)
            )
        return self.tokenizer.decode(ids.tolist()).strip()

    def save(self, ids: Sequence[int] | np.ndarray, path: Path | str) -> None:
        """Write what `decode` gives: a .png, a .wav, or a text file."""
        medium, path = self.decode(ids), Path(path)
        if isinstance(medium, str):
            path.write_text(medium)
        elif medium.dtype == np.uint8:
            write_png(path, medium)
        else:
            write_wav(path, medium, self.codecs.audio.sample_rate)

    def _codec(self, modality: str) -> Any:
        codec = getattr(self.codecs, modality)
        if codec is None:
            fix = f"put its weights into codecs/{modality} of an export, or load the run's own folder"
            raise UserError(f"no {modality} codec with its weights here", where="mmpt.load", fix=fix)
        return codec

    def _kind(self, ids: np.ndarray) -> str:
        segments = {self.space.segment(int(one)).partition("_CB")[0] for one in ids}
        if len(segments) > 1:
            raise UserError("ids of several kinds", found=", ".join(sorted(segments)), expected="one payload")
        return {"IMAGE": "image", "AUDIO": "audio"}.get("".join(segments), "text")

    def _source(self, task: str, given: Any) -> Any:
        """Ids that a prompt is built around."""
        if task not in EMIT_TASKS:
            return self.encode(given, "audio" if task == "a2t" else "image")
        if not isinstance(given, str):
            raise UserError(f"task {task} takes a text", found=type(given).__name__)
        return self.tokenizer.encode(" ".join(given.split()), add_special_tokens=False).ids


def _trained(folder: Path, checkpoint: str, device: str, dtype: str | None) -> Run:
    def data(stage: str) -> Path:
        return folder / stage / "data"

    if data("extension").is_dir():
        adopt(data("extension"))
    about = read_json(data("staged_export") / "export.json")
    workshop = EvalContext.at(data("base"), data("token_space"), 0, device, dtype or about["dtype"])
    trained = Trained.of(data("train"))
    path = trained.path(trained.final) if checkpoint == "final" else trained.named(checkpoint)
    with workshop.opened(path) as model:  # its adapter stays merged
        codecs, seconds = _codecs(data("codecs"), device)
    return Run(workshop.space, workshop.tokenizer, codecs, about["lengths"], model, seconds)


def _exported(folder: Path, device: str, dtype: str | None) -> Run:
    written = read_json(folder / "config.json").get("dtype") or "float32"
    model = PlainModel(open_plain(folder, getattr(torch, dtype or written), device))
    codecs, seconds = _codecs(folder / "codecs", device)
    tokenizer = open_tokenizer_file(folder / "tokenizer.json")
    return Run(load_space(folder), tokenizer, codecs, read_json(folder / "grammar.json"), model, seconds)


def _codecs(folder: Path, device: str) -> tuple[Codecs, float | None]:
    """The codecs whose weights are there, and the seconds that a recording is cut to."""
    there = {one.name: one for one in folder.glob("*") if len(list(one.iterdir())) > 1}  # more than codec.json
    audio = registry.load_audio(there["audio"], device) if "audio" in there else None
    image = registry.load_image(there["image"], device) if "image" in there else None
    spoken = folder / "audio" / "codec.json"
    return Codecs(audio, image), read_json(spoken)["clip_seconds"] if spoken.is_file() else None
