"""EnCodec's two file layouts: the same weights, of the published architecture, as a transformers folder and as an
official .th file, give the same codes and the same waves; and the published numbers hold.
"""

import sys
from functools import cache
from hashlib import sha256

import numpy as np
import pytest
import torch

from mmpt.codecs import encodec, registry
from mmpt.codecs.encodec_models import KINDS, package, renamed
from mmpt.codecs.protocol import AudioCodes
from mmpt.stages.codecs import codecs as codecs_stage
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file

pytest.importorskip("einops")
try:
    package()
except UserError:
    pytest.skip("the encodec package is an extra: pip install --no-deps encodec", allow_module_level=True)


@pytest.fixture(scope="module", params=["24khz", "48khz"])
def layouts(request, tmp_path_factory):
    """(kind, transformers folder, .th file) of one random model of the published architecture."""
    from transformers import EncodecConfig, EncodecModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = getattr(package().EncodecModel, f"encodec_model_{request.param}")(pretrained=False).eval()
    for name, parameter in model.encoder.named_parameters():
        if "bias" in name:  # untrained biases drown the signal
            torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        heard = model.encoder(torch.randn(1, model.channels, 9600) * 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith(".embed"):  # zeros as built: every code would be 0
                buffer.copy_(torch.randn(buffer.shape) * heard.std())
    root = tmp_path_factory.mktemp(request.param)
    other = EncodecModel(EncodecConfig(**KINDS[request.param]))
    other.load_state_dict(renamed(model.state_dict()))  # strict: every name is found
    other.save_pretrained(root / "hub")
    return request.param, root / "hub", th_file(model.state_dict(), root, request.param)


def th_file(state, folder, kind):
    """A state dict saved as it is published: the name begins its sha256."""
    torch.save(state, folder / "draft")
    digest = sha256((folder / "draft").read_bytes()).hexdigest()
    return (folder / "draft").rename(folder / f"encodec_{kind}-{digest[:8]}.th")


def wave(codec, samples):
    rng = np.random.default_rng(samples)
    t = np.arange(samples) / codec.sample_rate
    tone = np.sin(2 * np.pi * (200 + 400 * t) * t)
    return (0.2 * (0.6 * tone + 0.2 * rng.standard_normal((codec.channels, samples)))).astype(np.float32)


def opened(path, n_codebooks=4, heard=None):
    return encodec.create({"path": str(path), "n_codebooks": n_codebooks}, heard)


@cache
def unheard(path):
    """The codec of a path with four codebooks, opened once: reading and hashing 93 MB takes a while."""
    return opened(path)


def test_both_layouts_give_the_same_codes_gains_and_waves(layouts):
    kind, folder, file = layouts
    hub, official = unheard(folder), unheard(file)
    assert hub.identity() == official.identity()
    sound = wave(hub, hub.sample_rate + hub.sample_rate // 4)  # at 48 kHz: a chunk and a piece of another
    one, two = hub.encode([sound])[0], official.encode([sound])[0]
    assert np.array_equal(one.codes, two.codes) and one.scales == two.scales and one.meta == two.meta
    frames = [150, 39] if kind == "48khz" else [94]  # of 12,480 samples after the stride, of 30,000: none of padding
    assert one.meta["chunk_frames"] == frames and one.codes.shape[1] == sum(frames)
    assert min(len(np.unique(row)) for row in one.codes) > 5  # not all zero: the comparison means something
    assert np.array_equal(hub.decode([one])[0], official.decode([one])[0])


def test_the_published_numbers(layouts):
    kind, _, file = layouts
    codec = unheard(file)
    large = kind == "48khz"
    assert codec.codebook_size == 1024 and codec.frame_rate == (150 if large else 75)
    assert (codec.sample_rate, codec.channels) == ((48_000, 2) if large else (24_000, 1))
    ten = codec.sample_rate * 10
    assert codec.frames(ten) == (1515 if large else 750)  # 10 x 150 + 15, and 10 x 75
    assert codec.chunk_frames(ten) == ([150] * 10 + [15] if large else [750])
    assert (codec.config.chunk_length, codec.config.chunk_stride) == ((48_000, 47_520) if large else (None, None))
    assert codec.frames(codec.sample_rate) * 4 == (608 if large else 300)  # tokens of a second, four codebooks


@pytest.mark.parametrize("n_codebooks", [2, 4, 8, 16])
def test_bandwidths_give_their_codebooks(layouts, n_codebooks):
    kind, _, file = layouts
    codec = opened(file, n_codebooks)
    kbps = {2: 3.0, 4: 6.0, 8: 12.0, 16: 24.0} if kind == "48khz" else {2: 1.5, 4: 3.0, 8: 6.0, 16: 12.0}
    assert codec._bandwidth == kbps[n_codebooks]
    coded = codec.encode([wave(codec, 6400)])[0]
    assert coded.codes.shape == (n_codebooks, 20) and codec.decode([coded])[0].shape == (codec.channels, 6400)


def test_a_saved_codec_carries_its_file_and_loads_as_itself(layouts, tmp_path):
    _, _, file = layouts
    codec = opened(file, 4, [wave(unheard(file), 4800)])
    registry.save(codec, tmp_path / "audio", "encodec", "audio", clip_seconds=1.0, crop="first", resampler="r")
    validate_file(tmp_path / "audio/codec.json", "codec")
    names = {one.name for one in (tmp_path / "audio").iterdir()}
    assert names == {"code_vectors.safetensors", "codec.json", file.name}
    (tmp_path / "audio").rename(tmp_path / "moved")
    again = registry.load_audio(tmp_path / "moved")
    coded = codec.encode([wave(codec, 4800)])[0]
    assert np.array_equal(again.encode([wave(codec, 4800)])[0].codes, coded.codes)
    generated = AudioCodes(coded.codes)
    assert np.array_equal(again.decode([generated])[0], codec.decode([generated])[0])


def test_a_file_that_is_not_what_its_name_says_is_refused(layouts, tmp_path):
    kind, _, file = layouts
    damaged = tmp_path / file.name
    data = bytearray(file.read_bytes())
    data[-100] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(UserError, match="fails the checksum in its name.*dl.fbaipublicfiles.com"):
        opened(damaged)
    with pytest.raises(UserError, match="not the name of an official EnCodec file.*encodec_24khz-d7cc33bc.th"):
        opened((tmp_path / "weights.th").absolute() if (tmp_path / "weights.th").write_bytes(b"x") else "")
    other = {"24khz": "48khz", "48khz": "24khz"}[kind]
    mislabelled = tmp_path / file.name.replace(kind, other)
    mislabelled.write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="not those of this architecture.*tensors wrong"):
        opened(mislabelled)


def test_code_in_a_file_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("it ran",))

    with pytest.raises(UserError, match="something other than tensors"):
        opened(th_file({"a": Evil()}, tmp_path, "24khz"))


def test_a_folder_with_two_sets_of_weights_asks_which(layouts, tmp_path):
    _, folder, file = layouts
    for one in (*folder.iterdir(), file):
        (tmp_path / one.name).symlink_to(one)
    with pytest.raises(UserError, match="more than once.*name the file"):
        opened(tmp_path)


def test_torchaudio_stays_out_and_transformers_still_loads():
    assert "torchaudio" not in sys.modules
    from transformers import Qwen3ForCausalLM

    assert Qwen3ForCausalLM and package().EncodecModel


def test_without_the_package_the_line_says_what_to_install(monkeypatch):
    for name in [one for one in sys.modules if one.split(".")[0] == "encodec"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "einops", None)  # what a missing package looks like to `import`
    with pytest.raises(UserError, match="pip install --no-deps encodec && pip install einops"):
        package()
    assert "torchaudio" not in sys.modules


@pytest.mark.parametrize("layouts", ["48khz"], indirect=True)
def test_stage_codecs_takes_an_official_file(layouts, tiny_corpus):
    _, _, file = layouts
    section = {"name": "encodec", "path": str(file), "clip_seconds": 0.25, "n_codebooks": 2}
    out = tiny_corpus.run(codecs_stage, {"audio": section}, only="audio")
    codec = registry.load_audio(out / "audio")
    assert codec.identity() == opened(file, 2).identity()
    assert codec.median_scale > 0
