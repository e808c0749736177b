"""The built-in audio codec: residual vector quantisation of log-mel frames, phase by fast Griffin-Lim.

A token frame is `stack` successive mel frames as one vector; codebook 0 is k-means over those vectors, each
next one over what the earlier ones leave. Decoding (`decoders.py`) sums the centres, spreads mel bands over
linear bins and finds a phase that fits. Fitted in seconds on the train split, without weights from elsewhere;
real runs bring EnCodec.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mmpt.codecs.decoders import FLOOR, mel_bank, mel_wave, stft
from mmpt.codecs.kmeans import kmeans, nearest
from mmpt.codecs.protocol import AudioCodes
from mmpt.store.canonical import canonical_json, read_json, write_json
from mmpt.store.errors import UserError
from mmpt.store.tensors import load_tensors, save_tensors

FIT_FRAMES = 20_480


@dataclass(frozen=True)
class MelRvqOptions:
    """What makes two mel codecs alike, their weights apart."""

    n_codebooks: int = 4
    codebook_size: int = 256
    sample_rate: int = 16_000
    n_mels: int = 64
    hop: int = 200
    """Samples between mel frames (12.5 ms at 16 kHz)."""
    window: int = 800
    """Samples of an analysis window; a multiple of `hop`."""
    stack: int = 4
    """Mel frames in a token frame: frame rate = sample_rate / (hop * stack), 20 a second."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.n_codebooks, self.codebook_size, self.n_mels, self.hop, self.stack, self.sample_rate) < 1:
            raise UserError("codec options must be positive", where="codecs.audio", found=asdict(self))
        if self.window % self.hop or self.window < 2 * self.hop:
            raise UserError(
                "window must be a multiple of hop, twice or more",
                where="codecs.audio.window",
                found=self.window,
                expected=f"a multiple of {self.hop}",
            )


@dataclass(frozen=True, eq=False)
class MelRvq:
    """Audio codec `melrvq`.

    `codebooks` is float32 [K, codebook_size, stack * n_mels] and `mean` [stack * n_mels], both in natural
    logarithms of mel amplitude.
    """

    options: MelRvqOptions
    codebooks: np.ndarray
    mean: np.ndarray

    name = "melrvq"
    kind = "audio"
    channels = 1
    quality_metric = "log_mel_snr"
    quality_floor = 3.0
    """dB. 30 held-out recordings with the default options: worst 2.7, 5 % quantile 3.8, median 11.4."""

    @classmethod
    def fit(cls, waves: Sequence[np.ndarray], options: MelRvqOptions) -> "MelRvq":
        """Fit on float32 [C, T] waves of any lengths at the codec's rate; raises UserError without any."""
        if not len(waves):
            raise UserError("no sounds to fit the codebooks on", where="codecs.audio")
        frames = np.concatenate([_frames(_mono(wave), options) for wave in waves])
        rng = np.random.default_rng([options.seed, len(frames)])
        frames = frames[np.sort(rng.permutation(len(frames))[:FIT_FRAMES])]
        mean = frames.mean(axis=0, dtype=np.float64).astype(np.float32)
        rest, codebooks = frames - mean, []
        for index in range(options.n_codebooks):
            codebooks.append(kmeans(rest, options.codebook_size, seed=options.seed + index))
            rest = rest - codebooks[-1][nearest(rest, codebooks[-1])]
        return cls(options, np.stack(codebooks), mean)

    @property
    def sample_rate(self) -> int:
        return self.options.sample_rate

    @property
    def frame_rate(self) -> float:
        return self.options.sample_rate / self.samples_per_frame

    @property
    def samples_per_frame(self) -> int:
        return self.options.hop * self.options.stack

    @property
    def n_codebooks(self) -> int:
        return self.options.n_codebooks

    @property
    def codebook_size(self) -> int:
        return self.options.codebook_size

    def frames(self, samples: int) -> int:
        """Token frames of a wave of `samples` samples: at least one."""
        return max(1, -(-samples // self.samples_per_frame))

    def samples(self, frames: int) -> int:
        """Samples that decoding `frames` token frames gives."""
        return frames * self.samples_per_frame

    def encode(self, waves: Sequence[np.ndarray]) -> list[AudioCodes]:
        """Return codes int32 [K, frames] of each float32 [C, T] wave; channels are averaged.

        A wave's codes do not depend on its batch. Raises UserError for an empty or non-finite wave.
        """
        return [self._encode_one(np.asarray(wave)) for wave in waves]

    def _encode_one(self, wave: np.ndarray) -> AudioCodes:
        mono = _mono(wave)
        if mono.size == 0 or not np.isfinite(mono).all():
            raise UserError("a wave is empty or not finite", found=f"shape {wave.shape}")
        rest, codes = _frames(mono, self.options) - self.mean, []
        for codebook in self.codebooks:
            codes.append(nearest(rest, codebook))
            rest = rest - codebook[codes[-1]]
        return AudioCodes(codes=np.stack(codes).astype(np.int32), samples=mono.size)

    def decode(self, items: Sequence[AudioCodes]) -> list[np.ndarray]:
        """Return float32 [1, samples] of each; without `samples`, of all its frames.

        Raises:
            UserError: wrong number of codebooks, or a code outside its codebook, with codebook and frame.
        """
        return [self._decode_one(item) for item in items]

    def _decode_one(self, item: AudioCodes) -> np.ndarray:
        codes = np.asarray(item.codes)
        self._check(codes)
        samples = item.samples or self.samples(codes.shape[1])
        return mel_wave(codes, self.codebooks, self.mean, self.options, samples)

    def _check(self, codes: np.ndarray) -> None:
        if codes.ndim != 2 or codes.shape[0] != self.n_codebooks or codes.shape[1] < 1:
            raise UserError("wrong shape of audio codes", found=codes.shape, expected=f"[{self.n_codebooks}, frames]")
        outside = np.argwhere((codes < 0) | (codes >= self.codebook_size))
        if len(outside):
            book, frame = (int(i) for i in outside[0])
            raise UserError(
                f"audio code outside codebook {book} at frame {frame}",
                found=int(codes[book, frame]),
                expected=f"0..{self.codebook_size - 1}",
            )

    def quality(self, reference: np.ndarray, output: np.ndarray) -> dict[str, float]:
        """Compare log mel amplitudes (natural log) of two float32 [C, T] waves of one length.

        `log_mel_l1`: mean absolute difference. `log_mel_snr`: variance of the reference over the mean squared
        difference in dB; a silent reference counts as one of variance 0.01. SI-SDR of the waves is left out: phase is
        made up, so that it is -19 dB at any number of codebooks and moves by more than 1 dB with the phase's seed.
        """
        told, heard = (log_mel(wave, self.options).astype(np.float64) for wave in (reference, output))
        error = max(float(np.mean((told - heard) ** 2)), 1e-9)
        snr = 10 * np.log10(max(float(told.var()), 0.01) / error)
        return {"log_mel_snr": float(snr), "log_mel_l1": float(np.mean(abs(told - heard)))}

    @cached_property
    def _digest(self) -> str:
        state = hashlib.sha256(canonical_json({"name": self.name, **asdict(self.options)}))
        for array in (self.codebooks, self.mean):
            state.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        return state.hexdigest()

    def identity(self) -> str:
        """Hex SHA-256 of options and codebooks: equal digests, equal codes."""
        return self._digest

    def code_vectors(self) -> np.ndarray:
        """float32 [K, codebook_size, stack * n_mels]: what each code adds to the log-mel frames."""
        return self.codebooks

    def save(self, folder: Path) -> None:
        """Write codec.json and codec.safetensors."""
        about = {"name": self.name, "kind": self.kind, "identity": self.identity(), "options": asdict(self.options)}
        tensors = {"codebooks": self.codebooks, "mean": self.mean}
        save_tensors(Path(folder) / "codec.safetensors", tensors, {"identity": self.identity()})
        write_json(Path(folder) / "codec.json", about)

    @classmethod
    def load(cls, folder: Path) -> "MelRvq":
        """Read what `save` wrote; raises UserError where weights and codec.json do not belong together."""
        about = read_json(Path(folder) / "codec.json")
        weights = load_tensors(Path(folder) / "codec.safetensors")
        codec = cls(MelRvqOptions(**about["options"]), weights["codebooks"], weights["mean"])
        if codec.identity() != about["identity"]:
            raise UserError(
                "codec weights do not match codec.json",
                where=Path(folder),
                found=codec.identity(),
                expected=about["identity"],
            )
        return codec


def _mono(wave: np.ndarray) -> np.ndarray:
    return np.atleast_2d(wave).mean(axis=0, dtype=np.float64).astype(np.float32)


def log_mel(wave: np.ndarray, options: MelRvqOptions) -> np.ndarray:
    """float32 [frames, stack * n_mels]: natural log mel amplitudes of a float32 [C, T] wave's mono mix."""
    return _frames(_mono(wave), options)


def _frames(wave: np.ndarray, options: MelRvqOptions) -> np.ndarray:
    """Return float32 [frames, stack * n_mels]: log mel amplitudes; silence fills the last frame."""
    whole = options.hop * options.stack
    padded = np.pad(wave, (0, max(1, -(-len(wave) // whole)) * whole - len(wave)))
    # A full-scale sine has amplitude 1: a Hann window sums to half its length, a sine has two lines.
    amplitude = abs(stft(padded, options)) * np.float32(4 / options.window)
    mel = np.log(amplitude @ mel_bank(options) + np.float32(FLOOR))
    return mel.reshape(-1, options.stack * options.n_mels)
