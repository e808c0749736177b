"""SEED-2 on small random files of the published layout; its networks against transformers' BLIP-2 where it has them."""

import json
import shutil

import numpy as np
import pytest
import torch

from mmpt.codecs import registry, seed, seed_modules
from mmpt.codecs.weights import load_strictly, read_state
from mmpt.stages.codecs import codecs as codecs_stage
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file
from tests.codecs.seed_files import SIDE, SIZES, write_quantizer, write_unclip

needs_diffusers = pytest.mark.skipif(
    not pytest.importorskip("importlib.util").find_spec("diffusers"), reason="diffusers is an extra"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All published files, small; without diffusers only the config files that are read before painting."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("seed")
    write_quantizer(made)
    try:
        write_unclip(made)
    except ImportError:
        for part, config in (("unet", {"sample_size": 8}), ("vae", {"block_out_channels": [32, 64]})):
            (made / "unclip" / part).mkdir(parents=True)
            (made / "unclip" / part / "config.json").write_text(json.dumps(config))
        (made / "unclip/model_index.json").write_text("{}")
    return made


@pytest.fixture(scope="module")
def codec(folder):
    return seed.create({"path": str(folder), "steps": 3})


def pictures(n, side=40):
    return list(np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8))


def test_sizes_come_from_the_files(codec):
    assert (codec.codebook_size, codec.tokens_per_image, codec.grid) == (64, 4, (1, 4))
    assert (codec.proc_size, codec.decode_size) == (SIDE, 16)


def test_the_published_sizes_are_those_of_the_paper():
    with torch.device("meta"):
        published = seed_modules.SeedDecoder(seed_modules.Sizes(8192, 32, 32, 768, 4, (256, 128, 32), 1024))
    assert sum(p.numel() for p in published.parameters()) == 29_947_680
    assert published(torch.zeros((2, 32), dtype=torch.int64, device="meta")).shape == (2, 1024)
    # BLIP-2 reads 511 tensors of the vision file: "missing keys 511" is what SEED's own loader prints
    names = {name for i in range(39) for name in (f"blocks.{i}.{n}" for n in seed_modules.EvaBlock(88, 8).state_dict())}
    assert len(names) + len(("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")) == 511


def test_codes_are_legal_varied_and_do_not_depend_on_the_batch(codec):
    media = pictures(6)
    together = codec.encode(media)
    assert all(one.shape == (4,) and one.dtype == np.int32 for one in together)
    assert min(map(min, together)) >= 0 and max(map(max, together)) < 64 and len({tuple(c) for c in together}) == 6
    assert all(np.array_equal(codec.encode([one])[0], codes) for one, codes in zip(media, together, strict=True))


def test_the_vision_tower_is_blip_2s(folder):
    from transformers import Blip2VisionConfig, Blip2VisionModel

    vision = read_state(folder / "eva_vit_g.pth")
    ours = seed_modules.EvaVit(vision)
    load_strictly(ours, vision, folder, others_allowed=True)
    config = Blip2VisionConfig(
        hidden_size=88,
        num_attention_heads=1,
        intermediate_size=96,
        num_hidden_layers=2,
        image_size=28,
        patch_size=14,
    )
    theirs = Blip2VisionModel(config).eval()
    state = {
        "embeddings.class_embedding": vision["cls_token"],
        "embeddings.position_embedding": vision["pos_embed"],
    }
    for kind in ("weight", "bias"):
        state[f"embeddings.patch_embedding.{kind}"] = vision[f"patch_embed.proj.{kind}"]
        state[f"post_layernorm.{kind}"] = getattr(theirs.post_layernorm, kind)
    for i in range(2):
        at, to = f"blocks.{i}.", f"encoder.layers.{i}."
        bias = (vision[at + "attn.q_bias"], torch.zeros(88), vision[at + "attn.v_bias"])
        state[to + "self_attn.qkv.bias"] = torch.cat(bias)
        state[to + "self_attn.qkv.weight"] = vision[at + "attn.qkv.weight"]
        for ourname, name in (
            ("attn.proj", "self_attn.projection"),
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
        ):
            for kind in ("weight", "bias"):
                state[f"{to}{name}.{kind}"] = vision[f"{at}{ourname}.{kind}"]
    theirs.load_state_dict(state)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        expected = theirs(pixels).last_hidden_state
        assert torch.allclose(theirs.post_layernorm(ours(pixels)), expected, atol=1e-4)


def test_the_q_former_is_blip_2s_made_causal(folder):
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    state = read_state(folder / "seed_quantizer.pt")
    encoder = seed_modules.SeedEncoder(SIZES, state, read_state(folder / "eva_vit_g.pth"))
    config = Blip2QFormerConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=1,
        intermediate_size=96,
        encoder_hidden_size=88,
    )
    theirs = Blip2QFormerModel(config).eval()
    prefix = "Qformer.bert."
    ours = {k: v for k, v in state.items() if k.startswith(prefix) and ".0.output." not in k}
    renames = {
        k.removeprefix(prefix)
        .replace("embeddings.LayerNorm", "layernorm")
        .replace("attention.self", "attention.attention"): v
        for k, v in ours.items()
    }
    lost = theirs.load_state_dict(renames, strict=False)
    assert not lost.missing_keys, lost
    load_strictly(
        encoder.Qformer,
        {k.removeprefix("Qformer."): v for k, v in state.items()},
        folder,
        others_allowed=True,
    )
    seen, queries = torch.randn(2, 5, 88), torch.randn(2, 4, 64)

    def through(queries):
        hidden = encoder.Qformer.bert.embeddings.LayerNorm(queries)
        for layer in encoder.Qformer.bert.encoder.layer:
            hidden = layer(hidden, seen)
        return hidden

    with torch.inference_mode():
        ours, later, earlier = through(queries), queries.clone(), queries.clone()
        later[:, 3] = torch.randn(64)
        earlier[:, 0] = torch.randn(64)
        alone = theirs(query_embeds=queries[:, :1], encoder_hidden_states=seen).last_hidden_state
        assert torch.allclose(ours[:, :1], alone, atol=1e-4)  # the first query sees itself and the picture alone
        assert torch.allclose(through(later)[:, :3], ours[:, :3], atol=1e-6)
        assert (through(earlier)[:, 3] - ours[:, 3]).abs().max() > 1e-3


def test_the_decoder_against_its_formulas_written_out(codec):
    codes, state = np.array([3, 60, 3, 7]), {k: v.double() for k, v in codec.decoder.state_dict().items()}

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        return (
            centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * state[f"{name}.weight"]
            + state[f"{name}.bias"]
        )

    x = state["quantize.embedding.weight"][torch.from_numpy(codes)]
    x = linear(linear(x, "decode_task_layer.0").tanh(), "decode_task_layer.2") + state["pos_embed_image"][0]
    for i in range(2):
        at = f"blocks_image.{i}."
        q, k, v = linear(norm(x, at + "norm1"), at + "attn.qkv").split(64, dim=1)
        x = x + linear(torch.softmax(q @ k.T / 8, dim=1) @ v, at + "attn.proj")
        wide = linear(norm(x, at + "norm2"), at + "mlp.fc1")
        x = x + linear(wide * 0.5 * (1 + torch.erf(wide / 2**0.5)), at + "mlp.fc2")
    x = linear(linear(linear(x, "image_down.0").relu(), "image_down.2").relu(), "image_down.4")
    expected = linear(x.flatten(), "distill_image_proj")
    assert torch.allclose(codec.embed(codes)[0].double(), expected, rtol=1e-4, atol=1e-3)


def test_illegal_codes_are_refused(codec):
    with pytest.raises(UserError, match="outside its codebook at position 2; found 64; expected 0..63"):
        codec.decode([np.array([0, 1, 64, 2])])
    with pytest.raises(UserError, match="wrong number of image codes"):
        codec.decode([np.zeros(5, np.int32)])


@needs_diffusers
def test_a_picture_is_its_codes_and_its_seed_whatever_its_batch(codec):
    codes = codec.encode(pictures(2))
    first, second = codec.decode(codes, [5, 6])
    assert first.shape == (16, 16, 3) and first.dtype == np.uint8 and first.std() > 1
    torch.manual_seed(99)  # nobody else's random state is used
    assert np.array_equal(codec.decode([codes[0]], [5])[0], first)
    assert not np.array_equal(codec.decode([codes[0]], [6])[0], first)
    assert not np.array_equal(codec.decode([codes[1]], [5])[0], first)
    assert not np.array_equal(first, second)


@needs_diffusers
def test_the_quality_of_a_round_trip_has_what_the_audit_reads(codec):
    picture = pictures(1)[0]
    found = codec.quality(picture, codec.decode(codec.encode([picture]))[0])
    assert set(found) == {"embedding_cosine", "psnr", "ssim"} and codec.quality_metric in found
    assert codec.quality(picture, picture)["embedding_cosine"] == pytest.approx(1)


@needs_diffusers
def test_a_saved_codec_is_itself_again_and_needs_no_other_folder(folder, codec, tmp_path):
    registry.save(codec, tmp_path / "image", "seed", "image")
    validate_file(tmp_path / "image/codec.json", "codec")
    assert not list((tmp_path / "image").rglob("*.ckpt"))  # what nobody reads is not kept
    (tmp_path / "image").rename(tmp_path / "moved")
    again = registry.load_image(tmp_path / "moved")
    codes = codec.encode(pictures(1))
    assert np.array_equal(again.encode(pictures(1))[0], codes[0])
    assert np.array_equal(again.decode(codes, [1])[0], codec.decode(codes, [1])[0])


def test_identity_covers_every_file_and_the_settings(folder, codec, tmp_path):
    assert seed.create({"path": str(folder), "steps": 4}).identity() != codec.identity()
    shutil.copytree(folder, tmp_path / "copy")
    assert seed.create({"path": str(tmp_path / "copy"), "steps": 3}).identity() == codec.identity()
    config = tmp_path / "copy/unclip/unet/config.json"
    config.write_text(config.read_text() + " ")
    assert seed.create({"path": str(tmp_path / "copy"), "steps": 3}).identity() != codec.identity()


def test_changed_weights_do_not_load_as_the_saved_codec(codec, tmp_path):
    registry.save(codec, tmp_path, "seed", "image")
    state = read_state(tmp_path / "seed_quantizer.pt")
    state["distill_image_proj.bias"] += 1
    (tmp_path / "seed_quantizer.pt").unlink()  # a link: the codec's own file must stay as it is
    torch.save(state, tmp_path / "seed_quantizer.pt")
    with pytest.raises(UserError, match="isn't the one that was saved"):
        registry.load_image(tmp_path)


def test_missing_files_are_listed_with_size_source_and_place(tmp_path):
    with pytest.raises(UserError) as error:
        seed.create({"path": str(tmp_path / "none")})
    for told in (
        "seed_quantizer.pt",
        "1 GB",
        "AILab-CVC/seed-tokenizer-2",
        "eva_vit_g.pth",
        "2.0 GB",
        "unclip",
        "sha256",
    ):
        assert told in str(error.value)
    assert str(tmp_path / "none") in str(error.value)
    with pytest.raises(UserError, match="SEED-2 needs its weights; found nothing|codecs.image.path"):
        seed.create({})


def test_without_a_vision_tower_it_decodes_and_refuses_to_encode(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "half")
    (tmp_path / "half/eva_vit_g.pth").unlink()
    with pytest.raises(UserError, match="eva_vit_g.pth"):
        seed.create({"path": str(tmp_path / "half")})
    half = seed.create({"path": str(tmp_path / "half"), "decode_only": True})
    assert half.embed(np.arange(4)).shape == (1, 32) and half.proc_size == 224
    with pytest.raises(UserError, match="encoding with SEED-2 needs weights.*eva_vit_g.pth"):
        half.encode(pictures(1))


@pytest.mark.parametrize(
    "name", ["blocks_image.1.mlp.fc1.weight", "encode_task_layer.0.bias", "distill_image_proj.weight"]
)
def test_a_quantizer_file_without_a_tensor_is_refused(folder, tmp_path, name):
    shutil.copytree(folder, tmp_path / "less")
    state = read_state(folder / "seed_quantizer.pt")
    state.pop(name)
    torch.save(state, tmp_path / "less/seed_quantizer.pt")
    with pytest.raises(UserError, match="not those of this architecture.*missing|no tensor"):
        seed.create({"path": str(tmp_path / "less")}).embed(np.arange(4))
        seed.create({"path": str(tmp_path / "less")}).encode(pictures(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 8192}, "fixed by its weights; found 8192; expected 64"),
        ({"step": 3}, "did you mean 'steps'"),
    ],
)
def test_options_it_cannot_have_are_refused(folder, options, message):
    with pytest.raises(UserError, match=message):
        seed.create({"path": str(folder), **options})


@needs_diffusers
def test_stage_codecs_takes_it(folder, tiny_corpus):
    section = {"name": "seed", "path": str(folder), "codebook_size": 64, "options": {"steps": 2}}
    out = tiny_corpus.run(codecs_stage, {"image": section}, only="image")
    validate_file(out / "image/codec.json", "codec")
    assert registry.load_image(out / "image").steps == 2
    assert str(folder) not in (out / "image/codec.json").read_text()
