"""The picture codecs of transformers, small and random: codes and pictures of the library, sizes, refusals."""

import json

import numpy as np
import pytest
import torch
import transformers

from mmpt.codecs import check, registry, transformers_image
from mmpt.codecs.squares import square
from mmpt.store.errors import UserError

SMALL = dict(base_channels=32, channel_multiplier=[1, 1, 2], num_res_blocks=1, latent_channels=4, embed_dim=4)


def janus():
    return transformers.JanusVQVAE(transformers.JanusVQVAEConfig(**SMALL, num_embeddings=64, num_patches=4))


def emu3():
    more = dict(codebook_size=64, temporal_downsample_factor=2, attn_resolutions=[2], hidden_size=64)
    return transformers.Emu3VQVAE(transformers.Emu3VQVAEConfig(**SMALL, **more))


MADE = {"janus_vqgan": (janus, {}), "emu3_vqgan": (emu3, {"size": 16})}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Model type -> its folder; the codebook holds what the encoder gives, so that codes vary."""
    torch.set_num_threads(1)
    made = {}
    for name, (build, options) in MADE.items():
        torch.manual_seed(0)
        model = build().eval()
        made[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(made[name])
        seen = []
        hook = model.quant_conv.register_forward_hook(lambda module, given, output, seen=seen: seen.append(output))
        codec = transformers_image.create({"path": str(made[name]), **options})
        codec.network = model
        codec.encode([check._picture(seed) for seed in range(8)])
        hook.remove()
        vectors = torch.cat([one.transpose(0, 1).flatten(1).T for one in seen])
        rows = vectors[torch.randint(len(vectors), (64,))]
        model.quantize.embedding.weight.data.copy_(rows + 0.1 * vectors.std() * torch.randn(rows.shape))
        model.save_pretrained(made[name])
    return made


@pytest.fixture(params=sorted(MADE))
def codec(request, folders):
    path = str(folders[request.param])
    return registry.create_image({"name": "transformers", "path": path, **MADE[request.param][1]})


def test_codes_and_pictures_are_those_of_the_library(codec):
    pictures = [check._picture(seed) for seed in range(3)]
    codes = codec.encode(pictures)
    assert len(np.unique(codes)) > 8
    for picture, own in zip(pictures, codes, strict=True):
        pixels = torch.from_numpy(square(picture, 16).transpose(2, 0, 1)[None] / np.float32(127.5) - 1)
        with torch.inference_mode():
            if codec.name == "emu3_vqgan":
                theirs = codec.network.encode(pixels, image_sizes=torch.tensor([[16, 16]])).image_tokens[0]
                decoded = codec.network.decode(theirs[None])
            else:
                theirs = codec.network.encode(pixels).image_tokens
                decoded = codec.network.decode(theirs.reshape(1, -1))
        assert np.array_equal(own, theirs.flatten().numpy())
        plain = (decoded[0].permute(1, 2, 0).numpy() * 127.5 + 127.5).clip(0, 255).round().astype(np.uint8)
        assert np.array_equal(codec.decode([own])[0], plain)


def test_sizes_are_known_without_weights(codec, tmp_path):
    (tmp_path / "config.json").write_bytes((codec.folder / "config.json").read_bytes())
    section = {"name": "transformers", "path": str(tmp_path), **MADE[codec.name][1]}
    assert registry.shape("image", section) == {"tokens_per_image": 16, "codebook_size": 64}
    assert (codec.grid, codec.decode_size, codec.code_vectors().shape) == ((4, 4), 16, (1, 64, 4))


def test_the_contract_holds(folders):
    """As far as random weights can: no decode of theirs keeps anything of its medium."""
    section = {"name": "transformers", "path": str(folders["janus_vqgan"])}
    found = check.check("transformers", section, modality="image")
    assert found.broken == {} and len(found.tried) == 11


def test_what_cannot_be_is_refused(folders, tmp_path):
    for name, size, expected in (("janus_vqgan", 32, "expected 16"), ("emu3_vqgan", 18, "expected a multiple of 4")):
        with pytest.raises(UserError, match=f"do not fit the weights.*found {size}.*{expected}"):
            transformers_image.create({"path": str(folders[name]), "size": size})
    with pytest.raises(UserError, match="needs its weights.*found nothing"):
        transformers_image.create({})
    for name, said in (
        ("janus", r"inside this one.*JanusForConditionalGeneration.*model.vqmodel.save_pretrained"),
        ("chameleon_vqgan", "no decoder"),
        ("dac", "not a picture codec.*janus_vqgan or emu3_vqgan"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": name}))
        with pytest.raises(UserError, match=said):
            transformers_image.shape({"path": str(tmp_path)})
    with pytest.raises(UserError, match="unknown codec option.*sizes"):
        transformers_image.create({"path": str(folders["janus_vqgan"]), "sizes": 16})
