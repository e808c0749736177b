"""Codecs by name; one of them a plug-in in an installed package that never saw the rest of the code."""

import importlib
import sys

import numpy as np
import pytest

from mmpt.codecs import registry
from mmpt.codecs.names import names
from mmpt.codecs.protocol import AudioCodes
from mmpt.shards.lengths import audio_shape
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file

# A whole third-party package: it imports nothing of ours and knows audio as 8 levels at 100 Hz.
PLUGIN = """
import hashlib, json
from types import SimpleNamespace as Codes
import numpy as np

class Levels:
    name, sample_rate, channels, frame_rate, n_codebooks, codebook_size = "levels", 100, 1, 50.0, 1, 8
    quality_metric, quality_floor = "match", 0.5
    def __init__(self, gain): self.gain = gain
    def frames(self, samples): return -(-samples // 2)
    def encode(self, waves): return [self.one(wave) for wave in waves]
    def one(self, wave):
        codes = np.clip((wave[:, ::2] * self.gain + 1) * 4, 0, 7).astype(np.int32)
        return Codes(codes=codes, scales=None, samples=wave.shape[1], meta={})
    def decode(self, items):
        waves = [np.repeat(item.codes, 2, 1)[:, : item.samples or None] for item in items]
        return [(wave / 4 - 0.875).astype(np.float32) for wave in waves]
    def identity(self): return hashlib.sha256(b"levels %g" % self.gain).hexdigest()
    def quality(self, reference, output): return {"match": 1.0}
    def save(self, folder): (folder / "gain.json").write_text(json.dumps(self.gain))

class Plugin:
    modality = "audio"
    @staticmethod
    def fit_format(options): return (100, 1)
    @staticmethod
    def create(options, fit_data):
        loudest = max(float(abs(wave).max()) for wave in fit_data)
        return Levels(options.get("gain", 1.0) / loudest)
    @staticmethod
    def load(folder): return Levels(json.loads((folder / "gain.json").read_text()))

class Unfinished:
    modality = "audio"
    @staticmethod
    def create(options, fit_data): return Codes(name="x", encode=len)
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs the package as pip would: a module and a dist-info with entry points, on sys.path."""

    def install(points, dist="levels_codec"):
        site = tmp_path / "site-packages"
        info = site / f"{dist}-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (site / "levels_codec.py").write_text(PLUGIN)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[mmpt.codecs]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()))
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()

    yield install
    sys.modules.pop("levels_codec", None)


def test_a_plug_in_from_an_entry_point_does_all_that_a_built_in_does(installed, tmp_path):
    installed({"levels": "levels_codec:Plugin"})
    section = {"name": "levels", "clip_seconds": 1.0, "options": {"gain": 0.5}}
    assert "levels" in names("audio") and registry.fit_format("audio", section) == (100, 1)
    codec = registry.create_audio(section, [np.full((1, 10), 0.5, np.float32)])
    assert codec.gain == 1.0
    registry.save(codec, tmp_path / "audio", "levels", "audio", clip_seconds=1.0, crop="first", resampler="none")
    validate_file(tmp_path / "audio/codec.json", "codec")
    again = registry.load_audio(tmp_path / "audio")
    sound = np.linspace(-0.9, 0.9, 41, dtype=np.float32)[None]
    coded = again.encode([sound])[0]
    assert coded.codes.shape == (1, again.frames(41)) and len(np.unique(coded.codes)) == 8
    back = again.decode([AudioCodes(np.asarray(coded.codes), None, 41, {})])[0]
    assert back.shape == (1, 41) and abs(back - sound).max() < 0.2


def test_without_the_package_the_name_is_unknown(tmp_path):
    with pytest.raises(UserError, match="unknown audio codec.*found levels.*melrvq, encodec.*mmpt.codecs"):
        registry.create_audio({"name": "levels", "clip_seconds": 1.0})


def test_a_plug_in_that_does_not_follow_the_protocol_is_refused_with_what_is_missing(installed):
    installed({"unfinished": "levels_codec:Unfinished"})
    with pytest.raises(UserError, match="doesn't follow the audio protocol.*sample_rate.*decode.*identity"):
        registry.create_audio({"name": "unfinished", "clip_seconds": 1.0})


def test_a_plug_in_that_cannot_be_imported_is_a_clear_line(installed):
    installed({"gone": "levels_codec:Gone"})
    with pytest.raises(UserError, match="plug-in gone cannot be imported.*Gone"):
        registry.create_audio({"name": "gone", "clip_seconds": 1.0})


def test_two_packages_under_one_name_are_refused(installed):
    installed({"levels": "levels_codec:Plugin"})
    installed({"levels": "levels_codec:Unfinished"}, dist="other_codec")
    with pytest.raises(UserError, match="two packages register a codec under one name.*Plugin or .*Unfinished"):
        registry.create_audio({"name": "levels", "clip_seconds": 1.0})


def test_a_codec_of_the_other_modality_is_refused(installed):
    installed({"levels": "levels_codec:Plugin"})
    with pytest.raises(UserError, match="levels is not an image codec"):
        registry.create_image({"name": "levels"})
    with pytest.raises(UserError, match="patchvq is not an audio codec"):
        registry.create_audio({"name": "patchvq", "clip_seconds": 1.0})


@pytest.mark.parametrize(
    ("create", "section"),
    [
        (
            registry.create_audio,
            {"name": "melrvq", "clip_seconds": 1.0, "n_codebooks": 2, "codebook_size": 8, "mel_bands": 16},
        ),
        (registry.create_image, {"name": "patchvq", "size": 8, "patch": 4, "codebook_size": 8}),
    ],
)
def test_built_in_codecs_are_made_saved_and_loaded_by_name(create, section, tmp_path):
    rng = np.random.default_rng(0)
    audio = section["name"] == "melrvq"
    modality = "audio" if audio else "image"
    data = (
        [rng.standard_normal((1, 16_000)).astype(np.float32) * 0.1 for _ in range(3)]
        if audio
        else [rng.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(9)]
    )
    codec = create(section, data)
    more = {"clip_seconds": 1.0, "crop": "first", "resampler": "r"} if audio else {}
    registry.save(codec, tmp_path / modality, section["name"], modality, **more)
    validate_file(tmp_path / modality / "codec.json", "codec")
    again = (registry.load_audio if audio else registry.load_image)(tmp_path / modality)
    assert again.identity() == codec.identity()
    first, second = codec.encode(data[:1])[0], again.encode(data[:1])[0]
    assert np.array_equal(getattr(first, "codes", first), getattr(second, "codes", second))


def test_an_unknown_option_of_a_built_in_is_refused():
    with pytest.raises(UserError, match="unknown codec option.*did you mean 'patch'"):
        registry.create_image({"name": "patchvq", "options": {"pach": 4}}, [np.zeros((8, 8, 3), np.uint8)])


def test_the_registry_does_not_import_torch():
    code = "import sys; import mmpt.codecs.registry, mmpt.stages.codecs; sys.exit('torch' in sys.modules)"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_plug_in_tells_its_sizes_before_it_is_built(installed, tmp_path):
    told = """
    @staticmethod
    def shape(options):
        return {"sample_rate": 100, "n_codebooks": 1, "codebook_size": options["size"], "frame_rate": 50}
class Unfinished:"""
    installed({"levels": "levels_codec:Plugin"})
    source = tmp_path / "site-packages/levels_codec.py"
    source.write_text(PLUGIN.replace("\nclass Unfinished:", told))
    section = {"name": "levels", "clip_seconds": 1.0, "options": {"size": 8}}
    shape = audio_shape(section, tmp_path / "unbuilt")
    assert (shape.rate, shape.n_codebooks, shape.codebook_size) == (100, 1, 8)
    assert [shape.frames(n) for n in (1, 2, 3, 100)] == [1, 1, 2, 50]
    with pytest.raises(UserError, match="lacks a size.*codebook_size: 0"):
        audio_shape({**section, "options": {"size": 0}}, tmp_path / "unbuilt")
