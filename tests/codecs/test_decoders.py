"""`Decoder`, the file that goes out with an export: what a run's codec decodes, and refusals in plain words."""

import json
import shutil
import wave

import numpy as np
import pytest

from mmpt.codecs import encodec, registry
from mmpt.codecs.decoders import Decoder
from mmpt.codecs.melrvq import MelRvq, MelRvqOptions
from mmpt.codecs.patchvq import PatchVq, PatchVqOptions
from mmpt.codecs.protocol import AudioCodes
from mmpt.evaluate.media import write_wav

IMAGE, AUDIO, BOOKS = 100, 200, 12  # first ids; more than ten codebooks, whose names do not sort by number


def folder_of(root, audio, image=None):
    """An exported folder's codecs and token space, as far as `Decoder` reads them."""
    size = audio.codebook_size
    ranges = {f"AUDIO_CB{k}": {"start": AUDIO + k * size} for k in range(audio.n_codebooks)}
    ranges |= {"TEXT": {"start": 0}, "IMAGE": {"start": IMAGE}}
    registry.save(audio, root / "codecs" / "audio", audio.name, "audio")
    if image is not None:
        registry.save(image, root / "codecs" / "image", "patchvq", "image")
    (root / "token_space.json").write_text(json.dumps({"ranges": ranges}))
    return root


def ids_of(codes, size):
    """int64 [frames * K] of codes [K, frames]: frame by frame."""
    return (codes + AUDIO + size * np.arange(len(codes))[:, None]).T.ravel()


@pytest.fixture(scope="module")
def built_in(tmp_path_factory):
    rng = np.random.default_rng(0)
    waves = [rng.uniform(-1.5, 1.5, (1, 4000)).astype(np.float32) for _ in range(3)]  # clipped in places
    audio = MelRvq.fit(waves, MelRvqOptions(n_codebooks=BOOKS, codebook_size=4))
    pictures = [rng.integers(0, 256, (16, 16, 3), np.uint8) for _ in range(6)]
    image = PatchVq.fit(pictures, PatchVqOptions(size=16, patch=4, codebook_size=32))
    return audio, image, folder_of(tmp_path_factory.mktemp("export"), audio, image)


def test_pictures_and_sounds_are_those_of_the_runs_codec(built_in, tmp_path):
    audio, image, folder = built_in
    rng, decoder = np.random.default_rng(1), Decoder(folder)
    codes = rng.integers(0, 32, 16)
    assert np.array_equal(decoder.picture(codes + IMAGE), image.decode([codes])[0])
    spoken = rng.integers(0, 4, (BOOKS, 5))
    (sound,) = audio.decode([AudioCodes(spoken)])
    assert np.array_equal(decoder.sound(ids_of(spoken, 4)), sound) and decoder.rate == audio.sample_rate
    write_wav(tmp_path / "run.wav", sound, audio.sample_rate)
    decoder.save("t2a", ids_of(spoken, 4), tmp_path / "alone.wav")
    assert (tmp_path / "alone.wav").read_bytes() == (tmp_path / "run.wav").read_bytes()
    with wave.open(str(tmp_path / "alone.wav")) as file:
        assert file.getnframes() == audio.samples(5)


@pytest.mark.parametrize(
    ("task", "ids", "said"),
    [
        ("picture", [IMAGE] * 15, "15 image ids, expected 16"),
        ("picture", [IMAGE] * 15 + [IMAGE + 32], "id 132 at position 15 is no image id"),
        ("sound", [AUDIO] * 7, "7 audio ids do not fill whole frames of 12"),
        ("sound", [AUDIO] * 12, "id 200 at position 1 is no audio id of its codebook"),
        ("sound", [], "0 audio ids"),
    ],
)
def test_ids_that_are_no_medium_are_refused(built_in, task, ids, said):
    with pytest.raises(ValueError, match=said):
        getattr(Decoder(built_in[2]), task)(ids)


def test_encodec_decodes_with_its_published_files_and_says_what_it_lacks_without(encodec_folder, tmp_path):
    codec = encodec.create({"path": str(encodec_folder("24k"))})
    folder = folder_of(tmp_path, codec)
    for path in (folder / "codecs" / "audio").iterdir():
        if path.name != "codec.json":  # an export leaves foreign weights behind
            path.unlink()
    codes = np.random.default_rng(2).integers(0, codec.codebook_size, (codec.n_codebooks, 9))
    ids = ids_of(codes, codec.codebook_size)
    with pytest.raises(FileNotFoundError, match=f"codes are of encodec, identity {codec.identity()[:12]}"):
        Decoder(folder).sound(ids)
    for name in ("config.json", "model.safetensors"):
        shutil.copyfile(encodec_folder("24k") / name, folder / "codecs" / "audio" / name)
    (expected,) = codec.decode([AudioCodes(codes)])
    assert np.allclose(Decoder(folder).sound(ids), expected, atol=1e-6) and np.ptp(expected) > 1e-4
