"""Sounds of the generated corpus: one to three short events in a second, and sentences that describe them."""

import numpy as np

SOUND_RATE = 16_000
SOUND_SAMPLES = 16_000

SOUND_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("whistle", "buzz", "hiss", "bell"),
    "pitch": ("low", "medium", "high"),
    "contour": ("rising", "falling", "steady"),
    "count": ("one", "two", "three"),
    "loudness": ("quiet", "loud"),
}
PITCH_HZ = {"low": 250.0, "medium": 650.0, "high": 1600.0}
GLIDE_OCTAVES = {"rising": 1.4, "falling": -1.4, "steady": 0.0}
COUNT = {"one": 1, "two": 2, "three": 3}
RMS = {"quiet": 0.04, "loud": 0.2}
"""Root mean square within an event: 14 dB apart, and no kind clips."""

EVENT_SECONDS = 0.2
ONSETS = (0.1, 0.4, 0.7)
"""Seconds at which the first, second and third event start."""

BELL_SECONDS = 0.08
"""A bell falls to a third in this time; the other kinds hold their level."""
HISS_OCTAVES = 1.2
HISS_PARTIALS = 60
HISS_SEED = 5
"""A hiss is always the same dense cluster of partials: noise drawn anew would fill the codebooks."""
GOLDEN_ANGLE = 2.399963
"""Radians between the phases of neighbouring partials: a buzz isn't one sharp pulse a period."""


def play_sound(attributes: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Return float32 [16000] in (-1, 1); `rng` only makes the hiss of silence, 74 dB under full scale.

    Jitter that a codec hears would fill the codes with what no prompt can tell, and a small model learns that
    noise first.
    """
    wave = rng.normal(0, 2e-4, SOUND_SAMPLES)
    event = _event(attributes["kind"], PITCH_HZ[attributes["pitch"]], GLIDE_OCTAVES[attributes["contour"]])
    for onset in ONSETS[: COUNT[attributes["count"]]]:
        start = round(onset * SOUND_RATE)
        wave[start : start + len(event)] += RMS[attributes["loudness"]] * event
    return np.clip(wave, -0.999, 0.999).astype(np.float32)


def _event(kind: str, hz: float, glide: float) -> np.ndarray:
    """Return one event of unit RMS, float64 [n]; it glides by `glide` octaves around `hz`."""
    n = round(EVENT_SECONDS * SOUND_RATE)
    time = np.arange(n) / SOUND_RATE
    pitch = hz * 2 ** (glide * (time / EVENT_SECONDS - 0.5))
    phase = 2 * np.pi * np.cumsum(pitch) / SOUND_RATE
    ratios, weights, phases = _partials(kind, hz * 2 ** (abs(glide) / 2))
    wave = np.sin(np.outer(ratios, phase) + phases[:, None]).T @ weights
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    wave *= ramp * (np.exp(-time / BELL_SECONDS) if kind == "bell" else 1)
    return wave / np.sqrt(np.mean(wave**2))


def _partials(kind: str, highest_hz: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return frequency ratios, amplitudes and phases [n] of a kind's partials, all below 7.5 kHz."""
    if kind == "hiss":
        fixed = np.random.default_rng(HISS_SEED)
        ratios = 2 ** fixed.uniform(-HISS_OCTAVES / 2, HISS_OCTAVES / 2, HISS_PARTIALS)
        return ratios, np.ones(HISS_PARTIALS), fixed.uniform(0, 2 * np.pi, HISS_PARTIALS)
    if kind == "buzz":
        ratios = np.arange(1, max(4, int(7500 / highest_hz) + 1), 2, dtype=np.float64)
        weights = ratios**-0.25
    else:
        ratios, weights = {"whistle": ([1.0], [1.0]), "bell": ([1.0, 2.76], [1.0, 0.4])}[kind]
    return np.array(ratios), np.array(weights), np.arange(len(ratios)) * GOLDEN_ANGLE


def caption_sound(attributes: dict[str, str], mentioned: list[str], rng: np.random.Generator) -> str:
    """Describe the mentioned attributes in one of several wordings."""
    said = {name: attributes[name] for name in mentioned}
    several = said.get("count") != "one"
    kind = said.get("kind", "sound")
    noun = (kind + ("es" if kind.endswith(("s", "z")) else "s")) if several else kind
    words = (said.get("loudness"), said.get("contour"), noun)
    thing = " ".join(word for word in words if word)
    number = said.get("count", "some")
    pitch = said.get("pitch")
    wording = int(rng.integers(4))
    if wording == 0:
        parts = [number, thing, f"at a {pitch} pitch" if pitch else ""]
    elif wording == 1:
        parts = ["we hear", number, f"{pitch}" if pitch else "", thing]
    elif wording == 2:
        parts = [f"in a {pitch} voice" if pitch else "now", "come" if several else "comes", number, thing]
    else:
        parts = ["the sound of", number, thing, f"with {pitch} pitch" if pitch else ""]
    return " ".join(part for part in parts if part) + "."
