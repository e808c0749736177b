"""LlamaGen's tokenizer on a small random instance of the published architecture, in the published file layout."""

import numpy as np
import pytest
import torch
from PIL import Image

from mmpt.codecs import llamagen, registry, squares
from mmpt.codecs.llamagen_modules import Sizes, VqModel
from mmpt.stages.codecs import codecs as codecs_stage
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file
from tests.codecs.small_weights import write_llamagen


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("llamagen") / "vq_ds16_t2i.pt"
    write_llamagen(path)
    return path


@pytest.fixture(scope="module")
def codec(file):
    return llamagen.create({"path": str(file), "size": 16})


def pictures(n):
    return list(np.random.default_rng(0).integers(0, 256, (n, 20, 30, 3), dtype=np.uint8))


def test_the_published_architecture_has_the_published_size_and_names():
    with torch.device("meta"):
        model = VqModel(Sizes(16_384, 8, 256, 128, (128, 128, 256, 256, 512), 2))
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 72  # "72M" in the authors' table
    assert Sizes.of(model.state_dict()) == Sizes(16_384, 8, 256, 128, (128, 128, 256, 256, 512), 2)
    for name, shape in {
        "encoder.conv_blocks.2.res.0.nin_shortcut.weight": (256, 128, 1, 1),
        "encoder.conv_blocks.4.attn.1.proj_out.bias": (512,),
        "encoder.conv_blocks.3.downsample.conv.weight": (256, 256, 3, 3),
        "encoder.mid.1.q.weight": (512, 512, 1, 1),
        "decoder.conv_blocks.0.attn.2.k.weight": (512, 512, 1, 1),
        "decoder.conv_blocks.3.upsample.conv.bias": (128,),
        "decoder.norm_out.weight": (128,),
        "quantize.embedding.weight": (16_384, 8),
        "quant_conv.weight": (8, 256, 1, 1),
        "post_quant_conv.weight": (256, 8, 1, 1),
    }.items():
        assert tuple(model.state_dict()[name].shape) == shape, name
    codes = model.encode(torch.zeros((1, 3, 256, 256), device="meta"))
    assert codes.shape == (1, 16, 16) and model.decode(codes).shape == (1, 3, 256, 256)


def test_sizes_come_from_the_file(codec):
    assert (codec.codebook_size, codec.grid, codec.tokens_per_image) == (128, (4, 4), 16)
    assert (codec.proc_size, codec.decode_size) == (16, 16)


def test_codes_do_not_depend_on_the_batch_and_decode_without_noise(codec):
    media = pictures(4)
    together = codec.encode(media)
    assert all(one.shape == (16,) and one.dtype == np.int32 for one in together)
    assert len(np.unique(np.concatenate(together))) > 8
    for one, codes in zip(media, together, strict=True):
        assert np.array_equal(codec.encode([one])[0], codes)
    first = codec.decode(together)
    assert first[0].shape == (16, 16, 3) and first[0].dtype == np.uint8
    for one, codes in zip(first, together, strict=True):
        assert np.array_equal(codec.decode([codes], [7])[0], one)
    assert not np.array_equal(first[0], first[1])


def test_codes_are_the_nearest_by_distance(codec):
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    with torch.inference_mode():
        found = torch.nn.functional.normalize(codec.model.quant_conv(codec.model.encoder(pixels)), dim=1)
        flat = found.movedim(1, 3).reshape(-1, 8)
        book = torch.nn.functional.normalize(codec.model.quantize.embedding.weight, dim=1)
        assert torch.equal(torch.cdist(flat, book).argmin(1), codec.model.encode(pixels).flatten())


def test_attention_and_sampling_against_their_formulas_written_out(codec):
    block = codec.model.encoder.mid[1]
    x = torch.randn(1, 64, 3, 5)
    with torch.inference_mode():
        flat = block.norm(x).flatten(2)[0]
        q, k, v = (one.weight[:, :, 0, 0] @ flat + one.bias[:, None] for one in (block.q, block.k, block.v))
        seen = v @ torch.softmax(q.T @ k * 64**-0.5, dim=1).T
        expected = x[0].flatten(1) + block.proj_out.weight[:, :, 0, 0] @ seen + block.proj_out.bias[:, None]
        assert torch.allclose(block(x)[0].flatten(1), expected, atol=1e-4)
        # halving looks at rows 2i, 2i + 1, 2i + 2: the edge is padded at the far side only
        down = codec.model.encoder.conv_blocks[0].downsample
        y = torch.randn(1, 32, 4, 4)
        corner = torch.einsum("oihw,ihw->o", down.conv.weight, y[0, :, :3, :3]) + down.conv.bias
        assert torch.allclose(down(y)[0, :, 0, 0], corner, atol=1e-4)


def test_the_middle_square_is_what_is_seen(codec):
    wide = np.zeros((16, 48, 3), np.uint8)
    wide[:, :16], wide[:, 32:] = 255, 255  # beside the middle
    assert squares.square(wide, 16).max() == 0
    assert np.array_equal(codec.encode([wide])[0], codec.encode([np.zeros((16, 16, 3), np.uint8)])[0])


def test_illegal_codes_are_refused(codec):
    with pytest.raises(UserError, match="outside its codebook at position 3; found 128; expected 0..127"):
        codec.decode([np.where(np.arange(16) == 3, 128, 0)])
    with pytest.raises(UserError, match="wrong number of image codes"):
        codec.decode([np.zeros(15, np.int32)])


def test_a_saved_codec_is_itself_again_and_needs_no_other_folder(codec, tmp_path):
    registry.save(codec, tmp_path / "image", "llamagen", "image")
    validate_file(tmp_path / "image/codec.json", "codec")
    (tmp_path / "image").rename(tmp_path / "moved")
    again = registry.load_image(tmp_path / "moved")
    codes = codec.encode(pictures(1))
    assert np.array_equal(again.encode(pictures(1))[0], codes[0])
    assert np.array_equal(again.decode(codes)[0], codec.decode(codes)[0])


def test_other_weights_and_another_size_are_another_codec(file, codec, tmp_path):
    assert llamagen.create({"path": str(file), "size": 32}).identity() != codec.identity()
    saved = torch.load(file, weights_only=True)
    saved["model"]["quant_conv.bias"] += 1e-3
    torch.save(saved, tmp_path / file.name)
    assert llamagen.create({"path": str(tmp_path), "size": 16}).identity() != codec.identity()


@pytest.mark.parametrize("change", ["missing", "shape", "extra", "foreign", "code"])
def test_weights_that_are_not_the_architectures_are_refused(file, tmp_path, change):
    saved = torch.load(file, weights_only=True)
    state = saved["model"]
    if change == "missing":
        state.pop("decoder.mid.0.conv1.bias")
    elif change == "shape":
        state["decoder.conv_out.weight"] = torch.zeros(4, 32, 3, 3)
    elif change == "extra":
        state["decoder.conv_out.lora"] = torch.zeros(1)
    elif change == "foreign":
        saved["model"] = {"weight": torch.zeros(1)}
    else:
        saved["model"]["evil"] = Evil()
    torch.save(saved, tmp_path / file.name)
    wanted = {"foreign": "not the weights of a LlamaGen tokenizer", "code": "something other than tensors"}
    with pytest.raises(UserError, match=wanted.get(change, "not those of this architecture; found 1 of")):
        llamagen.create({"path": str(tmp_path), "size": 16})


class Evil:
    def __reduce__(self):
        return (print, ("it ran",))


def test_missing_weights_are_listed_with_size_source_and_place(tmp_path):
    with pytest.raises(UserError) as error:
        llamagen.create({"path": str(tmp_path)})
    for told in ("vq_ds16_t2i.pt", "0.29 GB", "peizesun/llamagen_t2i", "sha256", str(tmp_path)):
        assert told in str(error.value)
    with pytest.raises(UserError, match="weights that are not there; found nothing"):
        llamagen.create({})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 16_384}, "fixed by its weights; found 16384; expected 128"),
        ({"size": 18}, "a whole number of codes; found 18; expected a multiple of 4"),
        ({"siz": 16}, "did you mean 'size'"),
    ],
)
def test_options_it_cannot_have_are_refused(file, options, message):
    with pytest.raises(UserError, match=message):
        llamagen.create({"path": str(file), **options})


def test_psnr_and_ssim_of_known_pictures(codec):
    rng = np.random.default_rng(0)
    picture = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((16, 16)))
    same = codec.quality(picture, picture)
    assert same["psnr"] == pytest.approx(99, abs=0.1) and same["ssim"] == pytest.approx(1)
    shifted = np.clip(picture.astype(int) + 10, 0, 255).astype(np.uint8)
    assert codec.quality(picture, shifted)["psnr"] == pytest.approx(28.1, abs=0.5)  # 20 log10(255 / 10)
    noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert codec.quality(picture, noise)["ssim"] < 0.2 < codec.quality(picture, shifted)["ssim"]


def test_stage_codecs_takes_it(file, tiny_corpus):
    out = tiny_corpus.run(codecs_stage, {"image": {"name": "llamagen", "path": str(file), "size": 16}}, only="image")
    validate_file(out / "image/codec.json", "codec")
    assert registry.load_image(out / "image").tokens_per_image == 16
    assert str(file.parent) not in (out / "image/codec.json").read_text()
