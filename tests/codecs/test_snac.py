"""SNAC: rows of a tree, codes and waves of the package itself, lengths, options. Small random weights."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from mmpt.codecs import registry
from mmpt.codecs import snac as codec_module
from mmpt.codecs.check import check
from mmpt.codecs.protocol import AudioCodes
from mmpt.codecs.snac import tree
from mmpt.store.errors import UserError
from tests.codecs.small_transformers import sound

package = pytest.importorskip("snac")

SMALL = dict(
    sampling_rate=8000,
    encoder_dim=4,
    encoder_rates=[2, 4, 4],
    decoder_dim=16,
    decoder_rates=[4, 4, 2],
    codebook_size=64,
)
SIZES = {
    "three": {**SMALL, "attn_window_size": None, "vq_strides": [4, 2, 1]},
    "four": {**SMALL, "encoder_dim": 8, "decoder_dim": 64, "attn_window_size": 16, "vq_strides": [8, 4, 2, 1]},
}


def seen_by(book, run):
    """[vectors, 8] that are to be quantized by a codebook in `run`."""
    found = []
    hook = book.in_proj.register_forward_hook(lambda module, given, output: found.append(output[0].T))
    with torch.no_grad():
        run()
    hook.remove()
    return found[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    torch.set_num_threads(1)
    made = {}
    for name, config in SIZES.items():
        torch.manual_seed(0)
        model = package.SNAC(**config).eval()
        wave = torch.from_numpy(sound(8000, 2.0))[None]
        for book in model.quantizer.quantizers:  # codes vary where codebooks hold what the encoder gives
            seen = seen_by(book, partial(model.encode, wave))
            rows = seen[torch.randint(len(seen), (64,))]
            book.codebook.weight.data.copy_(rows + 0.05 * seen.std() * torch.randn(rows.shape))
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "config.json").write_text(json.dumps(config))
        torch.save(model.state_dict(), made[name] / "pytorch_model.bin")
    return made


@pytest.fixture(params=sorted(SIZES))
def codec(request, folders):
    return registry.create_audio({"name": "snac", "path": str(folders[request.param])})


def test_rows_are_the_seven_slots_of_orpheus():
    assert tree([4, 2, 1]) == [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (2, 2), (2, 3)]
    assert len(tree([8, 4, 2, 1])) == 15 and tree([4, 1]) == [(0, 0), (1, 0), (1, 1), (1, 2), (1, 3)]


def test_codes_and_waves_are_those_of_the_package(codec):
    model = package.SNAC.from_pretrained(str(codec.folder))
    wave = sound(8000, 1.0)[:, : 4 * codec._whole * codec.samples(1)]
    with torch.no_grad():
        theirs = model.encode(torch.from_numpy(wave)[None])
        torch.manual_seed(codec_module.NOISE)
        decoded = model.decode(theirs)[0].numpy()
    (coded,) = codec.encode([wave])
    for book, own in enumerate(theirs):
        rows = np.array(codec.row_codebooks) == book
        assert np.array_equal(coded.codes[rows].T.reshape(-1), own[0].numpy())
        assert len(np.unique(own)) > 3
    assert np.array_equal(codec.decode([coded])[0], decoded)


@pytest.mark.parametrize("samples", [8011, 500, 1])
def test_lengths_are_known_beforehand(codec, samples):
    (coded,) = codec.encode([sound(8000, 1.1)[:, :samples]])
    assert coded.codes.shape == (codec.rows, codec.frames(samples)) and coded.samples == samples
    assert codec.decode([coded])[0].shape == (1, samples)
    assert codec.decode([AudioCodes(coded.codes)])[0].shape == (1, codec.samples(coded.codes.shape[1]))


def test_fewer_codebooks_are_the_coarser_ones(folders):
    path = str(folders["three"])
    three, two = (codec_module.create({"path": path, "n_codebooks": n}) for n in (3, 2))
    wave = sound(8000, 0.5)
    whole, part = three.encode([wave])[0].codes, two.encode([wave])[0].codes
    assert two.row_codebooks == (0, 1, 1) and np.array_equal(part, whole[np.array(three.row_codebooks) < 2])
    assert two.decode([AudioCodes(part)])[0].shape[1] == two.samples(part.shape[1]) == three.samples(whole.shape[1])
    told = registry.shape("audio", {"name": "snac", "path": path, "n_codebooks": 2, "clip_seconds": 1.0})
    for key in ("sample_rate", "n_codebooks", "codebook_size", "frame_rate", "row_codebooks"):
        assert told[key] == getattr(two, key)
    assert two.code_vectors().shape == (2, 64, 8) and two.identity() != three.identity()


def test_the_contract_holds(folders):
    found = check("snac", {"name": "snac", "path": str(folders["three"])}, seconds=0.5)
    assert found.broken == {} and len(found.tried) == 11


def test_what_cannot_be_is_refused(folders, tmp_path, monkeypatch):
    path = str(folders["three"])
    with pytest.raises(UserError, match="do not have so many codebooks.*found 4.*1..3"):
        codec_module.create({"path": path, "n_codebooks": 4})
    with pytest.raises(UserError, match="needs its weights.*found nothing.*snac_24khz"):
        codec_module.create({})
    (tmp_path / "config.json").write_text(json.dumps(SIZES["three"]))
    with pytest.raises(UserError, match="incomplete.*put pytorch_model.bin"):
        codec_module.create({"path": str(tmp_path)})
    state = torch.load(folders["three"] / "pytorch_model.bin", weights_only=True)
    state.pop("quantizer.quantizers.1.codebook.weight")
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="1 of .* tensors wrong.*quantizers.1.codebook.weight missing"):
        _ = codec_module.create({"path": str(tmp_path)}).network
    monkeypatch.setitem(__import__("sys").modules, "snac", None)
    with pytest.raises(UserError, match=r'needs the package snac.*pip install "mmpt\[snac\]"'):
        codec_module.create({"path": path})
