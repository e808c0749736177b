"""A base is mapped, cast on its way, and set aside until it is split; the numbers are those of a plain load."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmpt.model.layers import decoder_layers
from mmpt.model.loading import load_causal_lm, map_causal_lm, place, put_back, stored_dtype
from mmpt.model.multimodal import MultimodalLM
from mmpt.model.tiny import build_tiny
from mmpt.model.vocabulary import COLUMNS_AT_ONCE, initial_rows
from mmpt.store.memory import status
from tests.model.tiny_model import LORA, TEXT, save_base, small_space


def saved(folder, dtype, tied=True):
    """A base of several files in a dtype; its name."""
    save_base(folder, tied=tied)
    load_causal_lm(folder, dtype).save_pretrained(folder, max_shard_size="8KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("*.safetensors"))) > 1 and (folder / "model.safetensors.index.json").is_file()
    return folder


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_mapped_base_that_is_placed_or_put_back_is_the_loaded_one(tmp_path, stored, dtype, tied):
    base = saved(tmp_path / "base", stored, tied)
    assert stored_dtype(base) == stored
    plain = load_causal_lm(base, dtype)
    mapped = map_causal_lm(base, dtype)
    place(mapped, "cpu", dtype)
    assert mapped.config.dtype == plain.config.dtype == dtype
    same(mapped.state_dict(), plain.state_dict())
    assert (mapped.get_output_embeddings().weight is mapped.get_input_embeddings().weight) == tied
    buffers = [dict(one.named_buffers()) for one in (mapped, plain)]
    same(*buffers)
    whole, aside = (
        MultimodalLM.from_base(base, small_space(), LORA, seed=1, dtype=dtype, layer_norm=True, layers_aside=way)
        for way in (False, True)
    )
    token = torch.arange(4)[None]
    assert aside.aside and aside.hidden(token, token).isnan().any()
    for layer in decoder_layers(aside.lm.get_base_model()):
        put_back(layer, aside.aside, "cpu")
    assert not aside.aside
    same(aside.state_dict(), whole.state_dict())
    assert torch.equal(aside.hidden(token, token), whole.hidden(token, token))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_files_of_two_dtypes_lose_no_digit(tmp_path, dtype):
    """Matrices in bfloat16 and norms in float32, say: one dtype for all would round the norms."""
    save_base(tmp_path)
    path = tmp_path / "model.safetensors"
    mixed = {key: one.bfloat16() if one.ndim > 1 else one + 1e-4 for key, one in load_file(path).items()}
    save_file(mixed, path, {"format": "pt"})
    mapped = map_causal_lm(tmp_path, dtype)
    place(mapped, "cpu", dtype)
    same(mapped.state_dict(), load_causal_lm(tmp_path, dtype).state_dict())


def same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and torch.equal(ours[name], value), name


def test_a_base_that_is_set_aside_takes_no_memory_of_its_own(tmp_path):
    shape = {
        "hidden_size": 256,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 1024,
    }
    build_tiny(shape, TEXT, 0).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    size = sum(one.nbytes for one in load_file(tmp_path / "base" / "model.safetensors").values())

    def kept(**options):
        before = status("RssAnon")
        model = MultimodalLM.from_base(tmp_path / "base", small_space(), LORA, seed=1, **options)
        return status("RssAnon") - before, model

    kept(layers_aside=True)  # what is imported on the way
    mapped, _first = kept(layers_aside=True)
    plain, _second = kept()
    assert plain > 1.5 * size and mapped < 0.6 * size, (mapped, plain, size)  # plain: bfloat16 made float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_start_rows_of_a_wide_base_are_those_of_all_columns_at_once(monkeypatch, dtype):
    base = torch.randn(300, 2 * COLUMNS_AT_ONCE + 40).to(dtype)
    parts = initial_rows(base, 7, torch.Generator().manual_seed(1))
    monkeypatch.setattr("mmpt.model.vocabulary.COLUMNS_AT_ONCE", base.shape[1])
    assert torch.equal(parts, initial_rows(base, 7, torch.Generator().manual_seed(1)))
