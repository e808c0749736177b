"""Sounds of the generated corpus: one to three short events in a second at 16 kHz, and sentences that describe them."""

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
PITCH_HZ = {"low": 250.0, "medium": 700.0, "high": 1960.0}
GLIDE_OCTAVES = {"rising": 1.0, "falling": -1.0, "steady": 0.0}
COUNT = {"one": 1, "two": 2, "three": 3}
RMS = {"quiet": 0.03, "loud": 0.2}
"""Root mean square within an event: 16 dB apart."""

EVENT_SECONDS = 0.2
ONSETS = (0.1, 0.4, 0.7)
"""Seconds at which the first, second and third event start."""

HISS_OCTAVES = 1.2
HISS_PARTIALS = 60


def play_sound(attributes: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Return float32 [16000] in (-1, 1); onset, pitch, level and phases carry a little jitter from `rng`."""
    wave = rng.normal(0, 2e-4, SOUND_SAMPLES)
    hz = PITCH_HZ[attributes["pitch"]] * 2 ** rng.uniform(-0.06, 0.06)
    level = RMS[attributes["loudness"]] * 10 ** (rng.uniform(-1, 1) / 20)
    shift = rng.uniform(-0.004, 0.004)
    for onset in ONSETS[: COUNT[attributes["count"]]]:
        event = _event(attributes["kind"], hz, GLIDE_OCTAVES[attributes["contour"]], rng)
        start = round((onset + shift) * SOUND_RATE)
        wave[start : start + len(event)] += level * event
    return np.clip(wave, -0.999, 0.999).astype(np.float32)


def _event(kind: str, hz: float, glide: float, rng: np.random.Generator) -> np.ndarray:
    """Return one event of unit RMS, float64 [n]; it glides by `glide` octaves around `hz`."""
    n = round(EVENT_SECONDS * SOUND_RATE)
    time = np.arange(n) / SOUND_RATE
    pitch = hz * 2 ** (glide * (time / EVENT_SECONDS - 0.5))
    phase = 2 * np.pi * np.cumsum(pitch) / SOUND_RATE
    ratios, weights = _partials(kind, hz * 2 ** (abs(glide) / 2), rng)
    wave = np.sin(np.outer(ratios, phase) + rng.uniform(0, 2 * np.pi, len(ratios))[:, None]).T @ weights
    ramp = np.minimum(1, np.minimum(time, time[::-1]) / 0.01)
    wave *= ramp * (np.exp(-time / 0.06) if kind == "bell" else 1)
    return wave / np.sqrt(np.mean(wave**2))


def _partials(kind: str, highest_hz: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the frequency ratios and amplitudes [n] of a kind's partials, all below 7.5 kHz."""
    if kind == "whistle":
        return np.array([1.0]), np.array([1.0])
    if kind == "bell":
        return np.array([1.0, 2.76]), np.array([1.0, 0.4])
    if kind == "buzz":
        ratios = np.arange(1, max(2, int(7500 / highest_hz)) + 1, dtype=np.float64)
        return ratios, ratios**-0.5
    if kind == "hiss":
        ratios = 2 ** rng.uniform(-HISS_OCTAVES / 2, HISS_OCTAVES / 2, HISS_PARTIALS)
        return ratios, np.ones(HISS_PARTIALS)
    raise KeyError(kind)


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
