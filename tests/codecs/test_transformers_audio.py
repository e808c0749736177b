"""The audio codecs of transformers, on small random models of each class."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from mmpt.codecs import registry, transformers_audio
from mmpt.codecs.check import check
from mmpt.codecs.protocol import AudioCodes, frames_of
from mmpt.codecs.registry import describe
from mmpt.codecs.transformers_models import KINDS
from mmpt.shards.encode import AudioEncoder
from mmpt.shards.stored import stored_audio
from mmpt.stages.codecs import codecs
from mmpt.store.errors import UserError
from mmpt.tokens.space import build_token_space
from tests.codecs.small_transformers import MODELS, sound, write_transformers

LENGTHS = (24_011, 7_999, 500, 1)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """folders(name): config.json and model.safetensors of a class, made once."""
    made = {}

    def folder(name):
        if KINDS[name].package:
            try:
                __import__(KINDS[name].package)
            except (ImportError, OSError):
                pytest.skip(f"{KINDS[name].package} cannot be imported beside this torch")
        if not hasattr(transformers, KINDS[name].model):
            pytest.skip(f"transformers {transformers.__version__} has no {KINDS[name].model}")
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            write_transformers(name, made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module", params=sorted(MODELS))
def codec(request, folders):
    torch.set_num_threads(1)
    return registry.create_audio({"name": "transformers", "path": str(folders(request.param))})


def library_input(codec, wave):
    """What the library's own feature extractor makes of a wave, without torchaudio."""
    hop, n = codec.sizes.hop, wave.shape[1]
    if codec.name in ("mimi", "wavtokenizer"):
        return {"input_values": torch.from_numpy(wave)[None]}
    if codec.name in ("dac", "xcodec", "higgs_audio_v2_tokenizer"):
        from transformers import DacFeatureExtractor

        extractor = DacFeatureExtractor(sampling_rate=codec.encode_rate, hop_length=hop)
        filled = extractor(wave[0], sampling_rate=codec.encode_rate, return_tensors="np")["input_values"]
        return {"input_values": torch.from_numpy(np.asarray(filled)).reshape(1, 1, -1)}
    from transformers import SeamlessM4TFeatureExtractor

    whole = np.pad(wave, ((0, 0), (0, -(n + 1) % hop + 1)))
    silence = hop // 2 if codec.name == "xcodec2" else 0
    features = SeamlessM4TFeatureExtractor(padding_value=1.0)(
        np.pad(whole[0], silence), sampling_rate=16_000, return_tensors="pt"
    )
    more = {"input_features": features.input_features, "input_features_mask": features.attention_mask}
    return {"input_values": torch.from_numpy(whole)[None], **more}


def test_codes_are_those_of_the_library(codec):
    wave = sound(codec.encode_rate, 1.0)[:, : 40 * codec.sizes.hop]
    for n in (wave.shape[1], wave.shape[1] - 77) if codec.name != "neucodec" else (wave.shape[1],):
        one = wave[:, :n]
        with torch.inference_mode():
            depth = codec.kind.depth(codec.network.config, codec.n_codebooks)
            found = codec.network.encode(**library_input(codec, one), **depth, return_dict=True).audio_codes
        ours = codec.encode([one])[0].codes
        assert np.array_equal(ours, found[0, : codec.n_codebooks, : ours.shape[1]].numpy())
        assert found.shape[2] - ours.shape[1] in ((0, 1) if codec.name == "xcodec2" else (0,))


def test_waves_are_those_of_the_library(codec):
    coded = codec.encode([sound(codec.encode_rate, 0.7)])[0]
    with torch.inference_mode():
        codes = torch.from_numpy(coded.codes.astype(np.int64))[None]
        plain = codec.network.decode(audio_codes=codes, return_dict=True).audio_values.reshape(1, -1).numpy()
    wave = codec.decode([coded])[0]
    common = min(wave.shape[1], plain.shape[1])
    assert np.array_equal(wave[:, :common], plain[:, :common])
    assert not wave[:, common:].any() and wave.shape[1] - common <= 8  # DAC with strides of 5


@pytest.mark.parametrize("samples", LENGTHS)
def test_frames_and_lengths_are_known_beforehand(codec, samples):
    wave = sound(codec.encode_rate, 2.0)[:, :samples]
    coded = codec.encode([wave])[0]
    assert coded.codes.shape == (codec.n_codebooks, codec.frames(samples)) and coded.codes.dtype == np.int32
    assert coded.samples == -(-samples * codec.sample_rate // codec.encode_rate)
    assert codec.decode([coded])[0].shape == (1, coded.samples)
    whole = codec.decode([AudioCodes(coded.codes)])[0]
    assert whole.shape == (1, codec.samples(coded.codes.shape[1]))


def test_codes_vary_so_that_these_tests_mean_something(codec):
    codes = codec.encode([sound(codec.encode_rate, 2.0, 5)])[0].codes
    assert min(len(np.unique(row)) for row in codes) > 5


def test_code_vectors_and_sizes_without_weights_agree_with_the_weights(codec, tmp_path):
    shutil.copy(codec.folder / "config.json", tmp_path)
    told = registry.shape("audio", {"name": "transformers", "path": str(tmp_path), "clip_seconds": 1.0})
    assert codec.code_vectors().shape[:2] == (codec.n_codebooks, codec.codebook_size)
    for key in ("encode_rate", "sample_rate", "n_codebooks", "codebook_size", "frame_rate"):
        assert told[key] == getattr(codec, key)


@pytest.mark.parametrize(
    "name", ["dac", *(pytest.param(o, marks=pytest.mark.slow) for o in sorted({*MODELS} - {"dac"}))]
)
def test_the_contract_holds(name, folders):
    """As far as random weights can: no decode of theirs keeps anything of its medium."""
    section = {"name": "transformers", "path": str(folders(name))}
    found = check("transformers", section, seconds=0.5, modality="audio")
    assert found.broken == {} and len(found.tried) == 11


def test_fewer_codebooks_are_the_first_of_more(folders):
    for name in ("dac", "mimi", "xcodec"):
        four, two = (transformers_audio.create({"path": str(folders(name)), "n_codebooks": n}) for n in (4, 2))
        wave = sound(four.encode_rate, 0.5)
        assert np.array_equal(two.encode([wave])[0].codes, four.encode([wave])[0].codes[:2])
        assert two.identity() != four.identity()


def test_two_rates(folders):
    codec = transformers_audio.create({"path": str(folders("neucodec"))})
    assert (codec.encode_rate, codec.sample_rate, codec.frame_rate) == (16_000, 24_000, 50.0)
    assert frames_of(codec, 1.0) == 50 and codec.samples(50) == 24_000


def test_an_encodec_folder_opens_as_codec_encodec_does(encodec_folder):
    section = {"path": str(encodec_folder("24k")), "n_codebooks": 2}
    codec = registry.create_audio({"name": "transformers", **section})
    assert codec.identity() == registry.create_audio({"name": "encodec", **section}).identity()
    told = registry.shape("audio", {"name": "transformers", **section})
    assert (told["n_codebooks"], told["frame_rate"]) == (2, 75.0)


def test_stages_hear_a_sound_at_one_rate_and_judge_its_decode_at_another(folders, tiny_corpus):
    section = {"name": "transformers", "path": str(folders("neucodec")), "clip_seconds": 0.5}
    out = tiny_corpus.run(codecs, {"audio": section}, only="audio")
    codec = registry.load_audio(out / "audio")
    space = build_token_space(
        base_text_model="x",
        text_vocab_size=10,
        n_special=16,
        image_tokenizer=None,
        audio_codec=describe(codec, "audio"),
    )
    encoder = AudioEncoder(codec, space, {"real": tiny_corpus.root}, 0.5)
    record = {"media": {"root": "real", "path": "s0.wav"}}
    heard = encoder.load(record)
    (coded,) = encoder.encode([heard])
    truth = encoder.ground_truth(record)
    assert (heard[0].shape, truth.shape) == ((1, 8_000), (1, 12_000))
    assert (coded.fields["frames"], coded.fields["samples"], coded.fields["sample_rate"]) == (25, 12_000, 24_000)
    assert codec.decode([stored_audio(space, coded.ids, coded.fields)])[0].shape == truth.shape


def refused(folder, message, **options):
    for function in (transformers_audio.shape, transformers_audio.create):
        with pytest.raises(UserError, match=message):
            function({"path": str(folder), **options})


def test_what_cannot_be_is_refused(folders, tmp_path):
    dac = folders("dac")
    refused(dac, "do not have so many codebooks.*found 5.*1..4", n_codebooks=5)
    refused(dac, "unknown codec option.*n_codebook", n_codebook=5)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vibevoice_acoustic_tokenizer"}))
    with pytest.raises(UserError, match="continuous latents.*expected one of encodec, dac, mimi"):
        transformers_audio.shape({"path": str(tmp_path)})
    shutil.copy(dac / "config.json", tmp_path)
    with pytest.raises(UserError, match="incomplete.*put model.safetensors"):
        transformers_audio.create({"path": str(tmp_path)})
    with pytest.raises(UserError, match="needs its weights.*found nothing"):
        transformers_audio.create({})


def test_a_weight_file_without_a_tensor_is_refused(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copy(folders("dac") / "config.json", tmp_path)
    state = load_file(folders("dac") / "model.safetensors")
    state.pop("quantizer.quantizers.1.codebook.weight")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="incomplete.*1 tensors missing.*quantizers.1.codebook"):
        _ = transformers_audio.create({"path": str(tmp_path)}).network


def test_a_model_that_the_installed_library_does_not_have_is_refused_in_a_line(folders, monkeypatch):
    folder = folders("dac")
    monkeypatch.setitem(KINDS, "dac", replace(KINDS["dac"], model="DacOfTomorrow"))
    codec = registry.create_audio({"name": "transformers", "path": str(folder)})
    with pytest.raises(UserError, match="does not have this model; found transformers .*; expected DacOfTomorrow; pip"):
        _ = codec.network
