"""The contract of codecs: built-in ones keep it, and each way to break it is found under its rule."""

import importlib
import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from scipy.signal import lfilter

from mmpt.codecs import check, contract, registry
from mmpt.codecs.contract import RULES, examine, keep_contract
from mmpt.codecs.encodec import Encodec
from mmpt.codecs.melrvq import MelRvq, MelRvqOptions
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions
from mmpt.codecs.round_trips import RoundTrips, compare
from mmpt.codecs.trivial_decodes import ANOTHER, CONSTANT, compare_sound, sound_view, summarise
from mmpt.gating.defaults import default_gates
from mmpt.store.errors import UserError

# A third party's codec: 16 levels at 100 Hz, two samples per frame.
PLUGIN = """
import hashlib, json, os
from types import SimpleNamespace as Codes
import numpy as np

class Levels:
    name, sample_rate, channels, frame_rate, n_codebooks, codebook_size = "levels", 100, 1, 50.0, 1, 16
    quality_metric, quality_floor = "match", 0.5
    calls = 0
    def frames(self, samples): return -(-samples // 2)
    def samples(self, frames): return 2 * frames
    def encode(self, waves):
        Levels.calls += 1
        return [self.one(wave) for wave in waves]
    def one(self, wave):
        codes = np.clip((wave[:, ::2] + 1) * 8, 0, 15).astype(np.int32)
        return Codes(codes=codes, scales=None, samples=wave.shape[1], meta={})
    def decode(self, items): return [self.back(item) for item in items]
    def back(self, item):
        wave = np.repeat(item.codes, 2, 1)[:, : item.samples or None]
        return (wave / 8 - 0.9375).astype(np.float32)
    def identity(self): return hashlib.sha256(b"levels").hexdigest()
    def quality(self, reference, output): return {"match": 1.0}
    def save(self, folder): (folder / "levels.json").write_text("{}")

class Plugin:
    modality = "audio"
    create = staticmethod(lambda options, fit_data: Levels())
    load = staticmethod(lambda folder: Levels())
"""
MEDIA = [np.sin(np.arange(n) / 3)[None].astype(np.float32) * 0.8 for n in (90, 151, 40)]
BREAKS = {
    "frames one too many": ("return -(-samples // 2)", "return 1 - (-samples // 2)", "codes", r"expected .* \[1, 46\]"),
    "codes beyond the codebook": ("* 8, 0, 15)", "* 8 + 9, 0, 99)", "codes", r"code \d+, expected 0..15"),
    "a result too few": ("for wave in waves]", "for wave in waves][:-1]", "codes", "2 results for 3 media"),
    "numpy in meta": ("meta={})", "meta={'n': np.int64(1)})", "codes", "meta: .*int64 is not JSON"),
    "numpy in a size": ('"levels", 100, 1', '"levels", np.int64(100), 1', "sizes", "sample_rate .*int64"),
    "samples() too many": ("return 2 * frames", "return 2 * frames + 7", "generated", "2 samples, expected 9"),
    "no decode without a length": ("item.samples or None", "range(item.samples)[-1] + 1", "decoded", "IndexError"),
    "a length of its own": ("[:, : item.samples or None]", "", "decoded", "152 samples, expected 151"),
    "float64 waves": (".astype(np.float32)\n    def identity", "\n    def identity", "decoded", "float64"),
    "noise at decode": ("(wave / 8", "(np.random.rand(*wave.shape) + wave / 8", "decoded", "decodes otherwise"),
    "codes that decode ignores": ("np.repeat(item", "np.repeat(0 * item", "codebooks", "codebook 0: 2 items"),
    "no metric": ('{"match": 1.0}', '{"other": 1.0}', "quality", "no 'match'.*'other'"),
    "state between calls": ("(wave[:, ::2] + 1) * 8", "(wave[:, ::2] + 1) * 8 + self.calls % 2", "alone", "state"),
    "the batch shifts codes": (
        "self.one(wave) for wave in waves",
        "self.one(wave * len(waves) / 3) for wave in waves",
        "alone",
        "each alone",
    ),
    "silence refused": ("codes = np.clip", "assert wave.any()\n        codes = np.clip", "extremes", "silence"),
    "another identity": ('b"levels"', 'b"%d" % id(self)', "loaded", "isn't the one that was saved"),
    "codes of this process": ("(wave[:, ::2] + 1) * 8", "(wave[:, ::2] + 1) * 8 + HERE", "process", "another process"),
}


@pytest.fixture
def levels(tmp_path, monkeypatch):
    """levels(old, new): the codec of an installed package, with its source changed."""

    def install(old="", new=""):
        info = tmp_path / "levels-1.0.dist-info"
        info.mkdir()
        assert old in PLUGIN
        source = PLUGIN.replace(old, new).replace("HERE", "bool(os.environ.get('LEVELS'))")
        (tmp_path / "levels_contract.py").write_text(source)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: levels\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[mmpt.codecs]\nlevels = levels_contract:Plugin\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        return registry.create_audio({"name": "levels"})

    yield install
    sys.modules.pop("levels_contract", None)


def test_a_codec_that_keeps_its_contract_breaks_no_rule(levels):
    found = examine(levels(), "audio", MEDIA, "levels")
    assert found.broken == {} and found.tried == list(RULES) and len(found.comparisons) == len(MEDIA)


@pytest.mark.parametrize("case", BREAKS)
def test_each_breach_is_found_under_its_rule(case, levels, monkeypatch):
    old, new, rule, said = BREAKS[case]
    if rule == "process":  # the other process alone finds the variable
        run = contract.subprocess.run
        monkeypatch.setattr(contract.subprocess, "run", lambda *a, env, **k: run(*a, env={**env, "LEVELS": "1"}, **k))
    else:  # a process takes half a second
        monkeypatch.setattr(contract._Trials, "in_another_process", lambda self, codes, folder: None)
    found = examine(levels(old, new), "audio", MEDIA, "levels")
    assert rule in found.broken, found.broken
    assert re.search(said, found.broken[rule]), found.broken[rule]


def test_a_codec_that_no_stage_could_use_is_refused_with_rule_and_remedy(levels, tmp_path):
    old, new, *_ = BREAKS["a result too few"]
    found = examine(levels(old, new), "audio", MEDIA, "levels")
    with pytest.raises(UserError, match="levels breaks its contract, rule codes.*2 results.*mmpt.codecs.check levels"):
        keep_contract(type("Ctx", (), {"log": print, "out": tmp_path}), found, "audio", "levels")


def test_without_media_what_needs_no_encoder_is_tried(levels):
    found = examine(levels(), "audio", [], "levels")
    assert found.tried == ["sizes", "identity", "generated"] and not found.broken


@pytest.fixture(scope="module")
def pictures():
    """A fitted picture codec, pictures that it was not fitted on, and their codes."""
    drawn = [check._picture(seed) for seed in range(44)]
    codec = PatchVq.fit(drawn[:32], PatchVqOptions(size=32, patch=4, codebook_size=64))
    return codec, drawn[32:], codec.encode(drawn[32:])


def test_a_grid_that_follows_the_picture_is_named(pictures, monkeypatch):
    """As Emu3's own rectangles would: the token space has one number of ids per picture."""
    codec, media, _ = pictures
    encode = PatchVq.encode
    monkeypatch.setattr(
        PatchVq, "encode", lambda self, some: [one[: -4 * i or None] for i, one in enumerate(encode(self, some))]
    )
    with pytest.raises(contract.Broken, match=r"medium 1.*codes of shape \[60\], expected \[64\]"):
        contract._Pictures(codec, media[:2], "patchvq", 1.0, "cpu").codes()


TWISTS = {
    "red and blue swapped": lambda codec, codes: [one[..., ::-1] for one in codec.decode(codes)],
    "mirrored": lambda codec, codes: [one[:, ::-1] for one in codec.decode(codes)],
    "transposed": lambda codec, codes: codec.decode([one.reshape(codec.grid).T.ravel() for one in codes]),
    "rolled by a token": lambda codec, codes: codec.decode([np.roll(one, 1) for one in codes]),
    "constant": lambda codec, codes: codec.decode([np.full_like(one, 5) for one in codes]),
}


def passes(summary):
    """What gate S3 says."""
    return all(state == "ok" for state, _, _ in check.compared(summary))


def test_an_honest_decode_is_better_than_trivial_versions_of_itself(pictures):
    codec, media, codes = pictures
    found = summarise(compare(codec, "image", media, codec.decode(codes)))
    assert passes(found) and found.items == len(media) == found.varied


@pytest.mark.parametrize("twist", TWISTS)
def test_a_twisted_decode_is_not(twist, pictures):
    codec, media, codes = pictures
    assert not passes(summarise(compare(codec, "image", media, TWISTS[twist](codec, codes))))


def test_one_twisted_item_is_enough(pictures):
    codec, media, codes = pictures
    outputs = codec.decode(codes)
    outputs[3] = outputs[3][:, ::-1]
    found = summarise(compare(codec, "image", media, outputs))
    assert found.mean > check.MEAN and found.better == 1 / len(media) > check.ITEMS_BETTER
    assert found.worst_change == "mirrored" and not passes(found)


def test_media_that_a_change_does_not_alter_are_left_out(pictures):
    codec, *_ = pictures
    plain = np.full((32, 32, 3), 90, np.uint8)
    found = summarise(compare(codec, "image", [plain], [plain]))
    assert (found.items, found.varied, found.worst, found.gain) == (0, 0, None, None)
    hum = np.sin(np.arange(16_000) * 0.3)[None].astype(np.float32)
    assert compare_sound(sound_view(hum, hum, 16_000), 20).margins == {}


@pytest.mark.parametrize("twist", ["reversed", "a frame late", "channels swapped"])
def test_twisted_sounds_are_worse_than_their_twisted_versions(twist):
    media = [check._sound(seed, 16_000, 2, 1.0) for seed in range(6)]
    noise = np.random.default_rng(0)
    honest = [wave + noise.normal(0, 0.003, wave.shape).astype(np.float32) for wave in media]
    twisted = {
        "reversed": [wave[:, ::-1] for wave in honest],
        "a frame late": [np.roll(wave, 800, axis=1) for wave in honest],
        "channels swapped": [wave[::-1] for wave in honest],
    }[twist]
    verdicts = [
        passes(summarise([compare_sound(sound_view(*pair, 16_000), 20) for pair in zip(media, outputs, strict=True)]))
        for outputs in (honest, twisted)
    ]
    assert verdicts == [True, False]


class Painter:
    """Gives back another picture with the same mean colour; its codes are that colour."""

    reconstructs, quality_metric = False, "likeness"

    def quality(self, reference, output):
        return {"likeness": float(1 - abs(reference.mean((0, 1)) - output.mean((0, 1))).mean() / 128)}


def test_a_codec_that_promises_no_pixels_is_held_against_the_decodes_of_other_items():
    media = [np.full((8, 8, 3), level, np.uint8) for level in (20, 90, 160, 230)]
    assert passes(summarise(compare(Painter(), "image", media, media)))
    assert not passes(summarise(compare(Painter(), "image", media, media[:1] * 4)))


class Vocoder:
    """A codec of 16 kHz whose decoder makes up the wave: only its measures are used here."""

    sample_rate, frame_rate, quality_metric = 16_000, 75.0, "kept_db"
    quality = Encodec.quality


def rain(seed):
    """A second of noise, of another colour for each seed."""
    noise = np.random.default_rng(seed).standard_normal(16_000)
    return 0.05 * lfilter([1], [1, (-1) ** seed * (0.95 - 0.1 * seed)], noise)[None].astype(np.float32)


def made_anew(wave):
    """Other noise with the same spectrum: what a good decoder gives for rain."""
    power = np.convolve(abs(np.fft.rfft(wave[0])) ** 2, np.ones(201) / 201, "same") ** 0.5
    phase = np.exp(2j * np.pi * np.random.default_rng(9).random(len(power)))
    return np.fft.irfft(power * phase, n=wave.shape[1])[None].astype(np.float32)


def trips(media, outputs):
    found = RoundTrips(Vocoder(), "audio")
    for medium, output, other in zip(media, outputs, [*outputs[1:], *outputs[:1]], strict=True):
        found.add(medium, output, other)
    return found


def test_rain_passes_where_its_noise_is_made_anew_and_not_where_items_are_mixed_up():
    media = [rain(seed) for seed in range(7)]
    good = trips(media, [made_anew(one) for one in media])
    assert np.mean(good.wins) >= 0.9 and passes(summarise(good.comparisons()))
    assert np.median([one["kept_db"] for one in good.quality]) > Encodec.quality_floor
    assert np.median([one["si_sdr_db"] for one in good.quality]) < -20  # so that no such floor could be asked
    for one in good.comparisons():
        assert CONSTANT in one.left_out and ANOTHER in one.margins
    mixed = trips(media, [made_anew(one) for one in (*media[3:], *media[:3])])
    assert np.mean(mixed.wins) < 0.8 and not passes(summarise(mixed.comparisons()))
    assert np.median([one["kept_db"] for one in mixed.quality]) < Encodec.quality_floor


def test_a_silent_sound_is_counted_apart():
    media = [np.zeros((1, 16_000), np.float32), rain(1), rain(2)]
    found = trips(media, [made_anew(one) for one in media])
    assert found.silent == 1 and len(found.quality) == len(found.wins) == len(found.comparisons()) == 2


def melrvq(clip_seconds=1.0):
    sounds = [check._sound(seed, 16_000, 1, clip_seconds) for seed in range(20)]
    return MelRvq.fit(sounds[4:], MelRvqOptions(3, 16, stack=8)), sounds[:4]


@pytest.mark.parametrize("unread", [None, 0, 2])
def test_a_codebook_that_decode_never_reads_is_named(monkeypatch, unread):
    codec, media = melrvq()
    found, decode = contract._Sounds(codec, media, "melrvq", 1.0, "cpu"), MelRvq.decode

    def one_left_out(self, items):
        return decode(self, [replace(one, codes=one.codes * (np.arange(3) != unread)[:, None]) for one in items])

    monkeypatch.setattr(MelRvq, "decode", one_left_out)
    codes = codec.encode(media)
    outputs = codec.decode([replace(one, samples=wave.shape[1]) for one, wave in zip(codes, media, strict=True)])
    if unread is None:
        found.codebooks(codes, outputs)
    else:
        with pytest.raises(contract.Broken, match=f"codebook {unread}: 4 items decode alike"):
            found.codebooks(codes, outputs)


def test_pictures_that_decode_alike_whatever_their_codes_are_named(pictures, monkeypatch):
    codec, media, codes = pictures
    found = contract._Pictures(codec, media, "patchvq", 1.0, "cpu")
    found.codebooks(codes, codec.decode(codes))
    found.codebooks(codes[:1] * 3, codec.decode(codes[:1] * 3))  # items with the same codes say nothing
    decode = PatchVq.decode
    monkeypatch.setattr(PatchVq, "decode", lambda self, items, seeds=None: decode(self, [0 * one for one in items]))
    with pytest.raises(contract.Broken, match="12 items decode alike with another item's codes"):
        found.codebooks(codes, codec.decode(codes))


def test_the_command_says_what_gate_s3_would_say(capsys):
    assert check.main(["patchvq", "--option", "size=16", "--option", "patch=4", "--option", "codebook_size=32"]) == 0
    assert "the contract holds" in capsys.readouterr().out
    assert check.main(["patchvq", "--option", "pach=4"]) == 2
    assert "did you mean 'patch'" in capsys.readouterr().err
    gate = default_gates()["S3"]
    asked = {one: gate.check(one).threshold for one in ("trivial_items", "trivial_mean", "gain")}
    assert asked == {"trivial_items": check.ITEMS_BETTER, "trivial_mean": check.MEAN, "gain": check.GAIN}
