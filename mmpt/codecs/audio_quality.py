"""How alike two sounds are, for any codec's round trip: SI-SDR of the waves, L1 and SNR of their log-mel amplitudes."""

from __future__ import annotations

import numpy as np

from mmpt.codecs.melrvq import MelRvqOptions, log_mel

FRAMES_PER_SECOND = 80
"""Of the log-mel comparison at any sample rate: the built-in codec's 12.5 ms."""


def si_sdr_db(reference: np.ndarray, output: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio (Le Roux et al. 2019) of float32 [channels, T] waves, -100..100 dB."""
    length = min(reference.shape[1], output.shape[1])
    clean, heard = (wave[:, :length].astype(np.float64).ravel() for wave in (reference, output))
    target = clean * (heard @ clean) / max(float(clean @ clean), 1e-12)
    ratio = float(target @ target) / max(float(((heard - target) ** 2).sum()), 1e-12)
    return float(np.clip(10 * np.log10(max(ratio, 1e-12)), -100, 100))


def log_mel_l1(reference: np.ndarray, output: np.ndarray, rate: int) -> float:
    """Mean absolute difference of log (natural) mel amplitudes of two float32 [channels, T] waves at `rate` Hz."""
    medium, decode = _mono_mels(reference, output, rate)
    return float(np.mean(abs(medium - decode)))


def log_mel_snr(reference: np.ndarray, output: np.ndarray, rate: int) -> float:
    """dB: variance of the reference's log mel amplitudes over the mean squared difference of the output's."""
    medium, decode = _mono_mels(reference, output, rate)
    error = max(float(np.mean((medium - decode) ** 2)), 1e-9)
    return float(10 * np.log10(max(float(medium.var()), 0.01) / error))


def _mono_mels(reference: np.ndarray, output: np.ndarray, rate: int) -> tuple[np.ndarray, np.ndarray]:
    length = min(reference.shape[1], output.shape[1])
    medium, decode = (log_mels(wave[:, :length].mean(axis=0, keepdims=True), rate) for wave in (reference, output))
    return medium, decode


def log_mels(wave: np.ndarray, rate: int) -> np.ndarray:
    """float64 [channels, frames, 64] of a float32 [channels, T] wave at `rate` Hz: natural log mel amplitudes, about
    FRAMES_PER_SECOND of them; silence is at the log of 70 dB under full scale.
    """
    hop = max(1, rate // FRAMES_PER_SECOND)
    options = MelRvqOptions(sample_rate=rate, hop=hop, window=4 * hop)
    mels = (log_mel(channel[None], options).reshape(-1, options.n_mels) for channel in wave)
    return np.stack(list(mels)).astype(np.float64)
