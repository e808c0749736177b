"""Decoders of the built-in codecs, and `Decoder`, which turns an exported model's ids into pictures and sounds.

This file stands alone, in a run and in an exported folder: it needs numpy, scipy and safetensors (Pillow for a picture,
torch and transformers for EnCodec), and token_space.json and codecs/ in the folder that `Decoder` opens.

    Decoder(folder).save("t2i", ids, "x.png")     ids of a payload, without the end token; t2a: x.wav
    Decoder(folder).picture(ids)                  uint8 [H, W, 3]
    Decoder(folder).sound(ids)                    float32 [channels, samples] in -1..1, at `Decoder.rate` Hz
"""

from __future__ import annotations

import json
import wave
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
from scipy import fft

HERE = Path(__file__).resolve().parent
FLOOR = 3e-4
"""Mel amplitude that counts as silence: 70 dB under full scale."""
PHASE_STEPS = 16
MOMENTUM = 0.99
"""Fast Griffin-Lim (Perraudin, Balazs, Sondergaard 2013): iterations and their acceleration."""
UNMIX_STEPS = 12


class MelSizes(Protocol):
    """What a mel codec's decoder needs to know; `window` is a multiple of `hop`, both in samples."""

    @property
    def sample_rate(self) -> int: ...
    @property
    def n_mels(self) -> int: ...
    @property
    def hop(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def seed(self) -> int: ...


def rows_in_order(serialization: str | None, rows: int, frames: int) -> list[int]:
    """The row of codes at each position of a sound; frame by frame those of one frame, which come again."""
    if serialization == "flatten_by_codebook":
        return [row for row in range(rows) for _ in range(frames)]
    if serialization == "flatten_delayed_codebooks":
        return [row for step in range(frames + rows - 1) for row in range(rows) if 0 <= step - row < frames]
    return list(range(rows))


class Decoder:
    """The codecs of an exported folder.

    A built-in codec lies in the folder with its codebooks. Of another one only codec.json does; of EnCodec at 24 kHz,
    copy config.json and model.safetensors of its published folder beside it.

    Args:
        folder: where token_space.json and codecs/ are.
    """

    def __init__(self, folder: Path | str = HERE):
        self.folder = Path(folder)
        space = json.loads((self.folder / "token_space.json").read_text())
        ranges, codec = space["ranges"], space.get("audio_codec") or {}
        self._image = [one["start"] for name, one in ranges.items() if name == "IMAGE"]
        books = sorted(one["start"] for name, one in ranges.items() if name.startswith("AUDIO_CB"))
        self._audio = [books[book] for book in codec.get("row_codebooks") or range(len(books))]
        self._order = codec.get("serialization")

    @property
    def rate(self) -> int:
        """Samples per second of `sound`."""
        return int(self._about("audio")["sample_rate"])

    def picture(self, ids: Any) -> np.ndarray:
        """uint8 [H, W, 3] of image ids [tokens per image].

        Raises:
            ValueError: another number of ids, or one that is no image id.
            FileNotFoundError: a codec that is not in the folder.
        """
        about = self._about("image")
        codes = self._codes(ids, self._image, about)[0]
        if len(codes) != about["tokens_per_image"]:
            raise ValueError(f"{len(codes)} image ids, expected {about['tokens_per_image']}")
        if about["plugin"] != "patchvq":
            raise self._foreign("image", about)
        options = about["options"]
        return paste(codes, self._tensors("image")["codebook"], options["size"], options["patch"])

    def sound(self, ids: Any) -> np.ndarray:
        """float32 [channels, samples] of audio ids [frames * rows of codes], in the token space's order.

        Raises:
            ValueError: ids that do not fill whole frames, or one that is not of the codebook whose turn it is.
            FileNotFoundError: a codec that is not in the folder.
        """
        about = self._about("audio")
        codes = self._codes(ids, self._audio, about)
        if about["plugin"] == "melrvq":
            tensors, options = self._tensors("audio"), SimpleNamespace(**about["options"])
            samples = codes.shape[1] * options.hop * options.stack
            return mel_wave(codes, tensors["codebooks"], tensors["mean"], options, samples)
        weights = self.folder / "codecs" / "audio" / "config.json"
        if about["plugin"] == "encodec" and about["sample_rate"] == 24_000 and weights.is_file():
            return _encodec(weights.parent, codes)
        raise self._foreign("audio", about)

    def save(self, task: str, ids: Any, path: Path | str) -> None:
        """Write the payload of task t2i as a PNG, of t2a as a wav of 16 bits. Raises as picture and sound do."""
        if task == "t2i":
            from PIL import Image

            Image.fromarray(self.picture(ids), "RGB").save(path, format="PNG")
            return
        # As libsndfile rounds: down, from 31 bits.
        whole = np.rint(np.clip(self.sound(ids), -1.0, 1.0).T.astype(np.float64) * 2**31).astype(np.int64)
        sound = np.minimum(whole, 2**31 - 1) >> 16
        with wave.open(str(path), "wb") as file:
            file.setnchannels(sound.shape[1])
            file.setsampwidth(2)
            file.setframerate(self.rate)
            file.writeframes(sound.astype("<i2").tobytes())

    def _about(self, modality: str) -> dict[str, Any]:
        return json.loads((self.folder / "codecs" / modality / "codec.json").read_text())

    def _tensors(self, modality: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self.folder / "codecs" / modality / "codec.safetensors")

    def _codes(self, ids: Any, starts: list[int], about: dict[str, Any]) -> np.ndarray:
        """int64 [rows, frames] of ids [frames * rows]; starts: first id of each row's codebook."""
        ids = np.asarray(ids, np.int64)
        if not len(ids) or len(ids) % len(starts):
            raise ValueError(f"{len(ids)} {about['kind']} ids do not fill whole frames of {len(starts)}")
        rows = np.zeros(len(ids), np.int64)
        if about["kind"] == "audio":
            rows = np.resize(rows_in_order(self._order, len(starts), len(ids) // len(starts)), len(ids))
        codes = ids - np.array(starts)[rows]
        outside = (codes < 0) | (codes >= about["codebook_size"])
        if outside.any():
            place = int(np.argmax(outside))
            raise ValueError(f"id {ids[place]} at position {place} is no {about['kind']} id of its codebook")
        return np.stack([codes[rows == row] for row in range(len(starts))])

    def _foreign(self, modality: str, about: dict[str, Any]) -> FileNotFoundError:
        return FileNotFoundError(
            f"codecs/{modality} has no weights: the codes are of {about['plugin']}, identity {about['identity'][:12]}; "
            "README.md of this folder says which"
        )


def _encodec(folder: Path, codes: np.ndarray) -> np.ndarray:
    """float32 [1, samples] by the EnCodec in `folder`, which works on a whole sound at once and has no gain."""
    import torch
    from transformers import EncodecModel

    model: Any = EncodecModel.from_pretrained(folder).eval()
    with torch.no_grad():
        return model.decode(torch.as_tensor(codes.copy())[None, None], [None])[0][0].numpy()


def paste(codes: np.ndarray, codebook: np.ndarray, size: int, patch: int) -> np.ndarray:
    """uint8 [size, size, 3]: patches of codebook float32 [codes, patch * patch * 3] in 0..255, row by row."""
    side = size // patch
    tiles = codebook[codes].reshape(side, side, patch, patch, 3).transpose(0, 2, 1, 3, 4)
    return np.clip(np.rint(tiles.reshape(size, size, 3)), 0, 255).astype(np.uint8)


def mel_wave(codes: np.ndarray, codebooks: np.ndarray, mean: np.ndarray, sizes: MelSizes, samples: int) -> np.ndarray:
    """float32 [1, samples] of codes [K, T], codebooks [K, codes, stack * n_mels] and mean [stack * n_mels], in natural
    logarithms of mel amplitude.
    """
    vectors = mean + sum(book[row] for book, row in zip(codebooks, codes, strict=True))
    mel = np.exp(vectors.reshape(-1, sizes.n_mels)) - FLOOR
    found = _phase(_unmix(np.maximum(mel, 0), sizes), sizes)
    return np.pad(found, (0, max(0, samples - len(found))))[None, :samples]


def _hann(sizes: MelSizes) -> np.ndarray:
    """The periodic window, float32 [window]."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(sizes.window) / sizes.window)).astype(np.float32)


def mel_bank(sizes: MelSizes) -> np.ndarray:
    """Triangles, float32 [window // 2 + 1, n_mels], equally wide in mel, each of sum 1 and with a bin."""
    bins = sizes.window // 2 + 1
    top = 2595 * np.log10(1 + sizes.sample_rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, sizes.n_mels + 2) / 2595) - 1)
    hz = np.linspace(0, sizes.sample_rate / 2, bins)[:, None]
    step = sizes.sample_rate / sizes.window
    low = np.minimum(edges[:-2], edges[1:-1] - step)
    high = np.maximum(edges[2:], edges[1:-1] + step)
    rise, fall = (hz - low) / (edges[1:-1] - low), (high - hz) / (high - edges[1:-1])
    bank = np.maximum(0, np.minimum(rise, fall))
    return (bank / bank.sum(axis=0)).astype(np.float32)


def stft(samples: np.ndarray, sizes: MelSizes) -> np.ndarray:
    """Return complex64 [samples / hop, window // 2 + 1]; frame i is centred on sample (i + 0.5) * hop."""
    edge = (sizes.window - sizes.hop) // 2
    padded = np.pad(samples, (edge, sizes.window - sizes.hop - edge))
    views = np.lib.stride_tricks.sliding_window_view(padded, sizes.window)[:: sizes.hop]
    return fft.rfft(views * _hann(sizes), axis=1)


def _istft(spectrum: np.ndarray, sizes: MelSizes) -> np.ndarray:
    """Overlap-add with the analysis window, divided by the summed squares: float32 [n * hop]."""
    window, hop, n = _hann(sizes), sizes.hop, len(spectrum)
    pieces = fft.irfft(spectrum, n=sizes.window, axis=1) * window
    parts = sizes.window // hop
    summed = np.zeros((n + parts - 1, hop), dtype=np.float32)
    weight = np.zeros((n + parts - 1, hop), dtype=np.float32)
    for part in range(parts):
        span = slice(part * hop, (part + 1) * hop)
        summed[part : part + n] += pieces[:, span]
        weight[part : part + n] += window[span] ** 2
    edge = (sizes.window - hop) // 2
    return (summed.ravel() / np.maximum(weight.ravel(), 1e-3))[edge : edge + n * hop]


def _unmix(mel: np.ndarray, sizes: MelSizes) -> np.ndarray:
    """Spread mel amplitudes [n, n_mels] over linear bins [n, bins] so that the bank gathers them again.

    Multiplicative updates keep the amplitudes positive and make them nearly as narrow as the bands allow.
    """
    bank = mel_bank(sizes)
    amplitude = np.maximum(mel @ bank.T, 1e-8)
    gram = bank @ bank.T
    target = mel @ bank.T
    for _ in range(UNMIX_STEPS):
        amplitude = amplitude * target / np.maximum(amplitude @ gram, 1e-8)
    return amplitude * np.float32(sizes.window / 4)


def _phase(amplitude: np.ndarray, sizes: MelSizes) -> np.ndarray:
    """Fast Griffin-Lim from one fixed draw of phases: float32 [n * hop] of amplitudes [n, bins]."""
    turns = np.random.default_rng(sizes.seed).random(amplitude.shape, dtype=np.float32)
    spectrum = amplitude * np.exp(2j * np.pi * turns).astype(np.complex64)
    previous = np.zeros_like(spectrum)
    for _ in range(PHASE_STEPS):
        fitting = stft(_istft(spectrum, sizes), sizes)
        ahead = fitting + np.float32(MOMENTUM) * (fitting - previous)
        spectrum = amplitude * ahead / np.maximum(abs(ahead), 1e-8)
        previous = fitting
    return _istft(spectrum, sizes)
