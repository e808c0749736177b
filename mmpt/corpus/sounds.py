"""Sounds of the generated corpus: one to three short events in at most a second, and sentences that describe them."""

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
BEAT_SECONDS = 0.1
BEATS = 10
EVENT_BEATS = 2
"""Events start on a beat. A beat is a token frame of the smoke codec, so that a sound that starts later has the same
codes, later: what varies inside a combination of attributes is the order of its codes, not how many there are.
"""
ONSETS = ((0, 1), (3, 4), (7,))
"""Beats on which the first, the second and the third event may start. An event takes two, and a pause follows."""
TAIL_BEATS = (1, 3)
"""How many beats a sound goes on at least and, within BEATS, at most after its last event: no caption says when a sound
ends, so a model has to hear that it is over (gate E1). At least one: were the third event the end of a sound, a model
that has missed this one moment would go on with what no sound of training holds.
"""
TICKS = (1, 2)
"""How many ticks a sound has at least and at most, in beats without an event. No caption mentions them."""
TICK_RMS = 0.005
TICK_SECONDS = 0.03
"""A tick is shorter than any event and 18 dB under the quiet ones."""
TICK_SEED = 6

BELL_SECONDS = 0.08
"""A bell falls to a third in this time; the other kinds hold their level."""
HISS_OCTAVES = 1.2
HISS_PARTIALS = 60
HISS_SEED = 5
"""A hiss is always the same dense cluster of partials: noise drawn anew would fill the codebooks."""
GOLDEN_ANGLE = 2.399963
"""Radians between the phases of neighbouring partials: a buzz isn't one sharp pulse a period."""


def play_sound(attributes: dict[str, str], rng: np.random.Generator) -> np.ndarray:
    """Return float32 [n] in (-1, 1), whole beats, SOUND_SAMPLES at most. `rng` chooses when the events start, when the
    sound ends and where ticks lie, and makes the hiss of silence, 74 dB under full scale.

    Jitter of pitch or level would fill the codes with what no prompt can tell, and a small model learns that noise
    first.
    """
    wave = rng.normal(0, 2e-4, SOUND_SAMPLES)
    event = _event(attributes["kind"], PITCH_HZ[attributes["pitch"]], GLIDE_OCTAVES[attributes["contour"]])
    silent, last = np.ones(BEATS, bool), 0
    for beats in ONSETS[: COUNT[attributes["count"]]]:
        onset = max(int(rng.choice(beats)), last + 1 if last else 0)
        silent[onset : onset + EVENT_BEATS] = False
        _add(wave, onset, RMS[attributes["loudness"]] * event)
        last = onset + EVENT_BEATS
    end = min(BEATS, last + int(rng.integers(TAIL_BEATS[0], TAIL_BEATS[1] + 1)))
    silent[end:] = False
    for beat in rng.permutation(np.flatnonzero(silent))[: int(rng.integers(TICKS[0], TICKS[1] + 1))]:
        _add(wave, beat + 0.5, TICK_RMS * _tick())
    wave = wave[: round(end * BEAT_SECONDS * SOUND_RATE)]
    return np.clip(wave, -0.999, 0.999).astype(np.float32)


def _add(wave: np.ndarray, beat: float, sound: np.ndarray) -> None:
    start = round(beat * BEAT_SECONDS * SOUND_RATE)
    wave[start : start + len(sound)] += sound


def _tick() -> np.ndarray:
    """Return a short burst of noise of unit RMS, float64 [n], always the same one."""
    n = round(TICK_SECONDS * SOUND_RATE)
    wave = np.random.default_rng(TICK_SEED).normal(size=n) * np.exp(-np.arange(n) / (0.2 * n))
    return wave / np.sqrt(np.mean(wave**2))


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
        partials = {"whistle": ([1.0], [1.0]), "bell": ([1.0, 2.76], [1.0, 0.4])}[kind]
        ratios, weights = (np.array(one) for one in partials)
    return ratios, weights, np.arange(len(ratios)) * GOLDEN_ANGLE


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
