"""The segmented model: which ids are which rows, what trains, packing, causality, PEFT's view of it."""

import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.lora import Linear as LoraLinear
from transformers import AutoModelForCausalLM, DynamicCache

from mmpt.generate import PlainModel
from mmpt.model.fused_lora import FoldedLora
from mmpt.model.multimodal import MultimodalLM, packed_mask
from mmpt.model.vocabulary import initial_rows, quiet_rows
from mmpt.ops import linear_cross_entropy
from mmpt.store.errors import UserError
from tests.model.tiny_model import LORA, TEXT, save_base, small_model, small_space

IDS = torch.arange(small_space().vocab_size_total)[None]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("padded_to", [TEXT, TEXT + 9])
@pytest.mark.parametrize("layer_norm", [True, False])
def test_plain_peft_reloads_the_adapter_bit_for_bit(tmp_path, tied, padded_to, layer_norm):
    model = small_model(tmp_path / "base", tied=tied, padded_to=padded_to, layer_norm=layer_norm)
    model.save_adapter(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(model.space.vocab_size_total, mean_resizing=False)
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter")
    stored, ours = get_peft_model_state_dict(theirs, save_embedding_layers=False), model.adapter_parameters()
    assert set(stored) == set(ours) and all(torch.equal(stored[key], ours[key]) for key in ours)
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=IDS).logits, model.logits(model.hidden(IDS)), rtol=1e-5, atol=1e-5)
        assert torch.equal(theirs(input_ids=IDS).logits.argmax(-1), model.logits(model.hidden(IDS)).argmax(-1))


def test_a_cache_is_given_by_the_name_that_this_transformers_has(tmp_path):
    """The older name gives a warning at each step of a generation."""
    model = small_model(tmp_path / "base")
    plain = PlainModel(AutoModelForCausalLM.from_pretrained(tmp_path / "base"))
    ids = torch.arange(8)[None]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for one in (model, plain):
            cache = DynamicCache()
            parts = [one.hidden(ids[:, :5], past_key_values=cache), one.hidden(ids[:, 5:], past_key_values=cache)]
            torch.testing.assert_close(torch.cat(parts, 1), one.hidden(ids))


@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_round_trip_is_exact_and_its_bytes_repeat(tmp_path, tied):
    model = small_model(tmp_path / "base", tied=tied)
    model.save_adapter(tmp_path / "a")
    other = MultimodalLM.from_base(tmp_path / "base", model.space, LORA, seed=99)
    assert not torch.equal(other.embedding.rows, model.embedding.rows)
    other.load_adapter(tmp_path / "a")
    for key, parameter in other.adapter_parameters().items():
        assert torch.equal(parameter, model.adapter_parameters()[key])
    other.save_adapter(tmp_path / "b")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(space=small_space(codebook_size=7)), "another token space"),
        (dict(space=small_space(identity="other")), "another token space"),
        (dict(lora={**LORA, "r": 8}), "another LoRA configuration"),
        (dict(lora={**LORA, "target_modules": ["q_proj"]}), "another LoRA configuration"),
        (dict(layer_norm=True), "another LoRA configuration"),
    ],
)
def test_an_adapter_of_something_else_is_refused(tmp_path, change, words):
    model = small_model(tmp_path / "base")
    model.save_adapter(tmp_path / "a")
    arguments = {"space": model.space, "lora": LORA, "seed": 1, **change}
    other = MultimodalLM.from_base(tmp_path / "base", arguments.pop("space"), arguments.pop("lora"), **arguments)
    with pytest.raises(UserError, match=words):
        other.load_adapter(tmp_path / "a")


def test_an_adapter_of_an_untied_head_is_refused_by_a_tied_one(tmp_path):
    small_model(tmp_path / "untied", tied=False).save_adapter(tmp_path / "a")
    with pytest.raises(UserError, match="tied and untied"):
        small_model(tmp_path / "tied").load_adapter(tmp_path / "a")


@pytest.mark.parametrize("tied", [True, False])
def test_padding_rows_of_the_base_matrix_are_never_read(tmp_path, tied):
    model = small_model(tmp_path / "base", tied=tied, padded_to=TEXT + 9)
    with torch.no_grad():
        before = model.logits(model.hidden(IDS))
        model.embedding.weight[TEXT:] = torch.nan
        model._head[TEXT:] = torch.nan
        assert torch.equal(model.logits(model.hidden(IDS)), before)
    assert model.head()[0].shape[0] == TEXT and model.head()[1].shape[0] == model.space.n_new


def test_text_alone_gives_the_base_models_logits(tmp_path):
    base = save_base(tmp_path / "base", tied=False)
    model = MultimodalLM.from_base(base, small_space(), LORA, seed=1)  # a fresh LoRA adds nothing
    ids = torch.arange(TEXT)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(base)(input_ids=ids).logits
        torch.testing.assert_close(model.logits(model.hidden(ids))[..., :TEXT], expected, rtol=1e-5, atol=1e-6)


def test_packed_equals_separate(tmp_path):
    model = small_model(tmp_path / "base")
    lengths = (5, 9, 2, 4)
    ids = torch.randint(0, 90, (1, 20), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    with torch.no_grad():
        packed = model.hidden(ids, positions)
        start = 0
        for n in lengths:
            alone = model.hidden(ids[:, start : start + n])
            torch.testing.assert_close(packed[:, start : start + n], alone, rtol=1e-5, atol=2e-6)
            start += n
        leaky = model.hidden(ids, positions, attention_mask=torch.ones_like(ids))
        assert (leaky - packed).abs().max() > 1e-3  # a mask of ones lets sequences see each other


def test_our_packed_mask_agrees_with_hugging_faces_own(tmp_path):
    model = small_model(tmp_path / "base")
    ids = torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(7), torch.arange(5)])[None].expand(2, 12)
    with torch.no_grad():
        ours = model.hidden(ids, positions)
        model._own_mask = False
        torch.testing.assert_close(model.hidden(ids, positions), ours, rtol=1e-5, atol=2e-6)
    single = torch.arange(12)[None].expand(2, 12)
    with torch.no_grad():
        assert torch.equal(model.hidden(ids, single, packed=False), model.hidden(ids))
    assert torch.equal(packed_mask(single)[0, 0], torch.ones(12, 12).tril().bool())


def test_no_token_sees_what_follows_it(tmp_path):
    model = small_model(tmp_path / "base")
    ids = torch.randint(0, 90, (1, 12), generator=torch.Generator().manual_seed(3))
    changed = ids.clone()
    changed[0, 7] = (changed[0, 7] + 1) % 90
    with torch.no_grad():
        a, b = model.hidden(ids), model.hidden(changed)
    assert torch.equal(a[:, :7], b[:, :7]) and not torch.equal(a[:, 7], b[:, 7])


def test_our_loss_is_hugging_faces_loss_on_the_same_labels(tmp_path):
    base = AutoModelForCausalLM.from_pretrained(save_base(tmp_path / "base"))
    ids = torch.randint(0, TEXT, (3, 10), generator=torch.Generator().manual_seed(4))
    labels = ids.clone()
    labels[:, :4] = -100
    theirs = base(input_ids=ids, labels=labels).loss
    hidden = base.get_decoder()(input_ids=ids).last_hidden_state[:, :-1]
    ours = linear_cross_entropy(hidden.flatten(0, 1), labels[:, 1:].flatten(), base.get_output_embeddings().weight)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_what_trains_and_what_is_frozen(tmp_path):
    model = small_model(tmp_path / "base", tied=False, layer_norm=True)
    assert set(model.trainable_groups()) == {"lora", "embed", "head", "layer_norm"}
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.adapter_parameters().values())
    assert not any(p.requires_grad for p in model.frozen().values())
    added = {id(p) for p in model.adapter_parameters().values()}
    assert added | {id(p) for p in model.frozen().values()} == {id(p) for p in model.parameters()}
    model.train_rows_only()
    asking = {key for key, p in model.adapter_parameters().items() if p.requires_grad}
    assert asking == {model.row_key("embed"), model.row_key("head")}


def test_merging_gives_the_base_weights_back_bit_for_bit(tmp_path):
    model = small_model(tmp_path / "base")
    before = {key: p.clone() for key, p in model.frozen().items()}
    with torch.no_grad():
        plain = model.hidden(IDS)
        with model.merged():
            assert any(not torch.equal(before[key], p) for key, p in model.frozen().items())
            torch.testing.assert_close(model.hidden(IDS), plain, rtol=1e-4, atol=1e-5)
        assert torch.equal(model.hidden(IDS), plain)
    assert all(torch.equal(before[key], p) for key, p in model.frozen().items())


def test_a_folded_lora_layer_computes_what_peft_computes(tmp_path):
    model = small_model(tmp_path / "base", lora={**LORA, "r": 16})
    folded = [m for m in model.lm.modules() if isinstance(m, FoldedLora)]
    assert len(folded) == 6  # three targets in two layers, all narrow beside rank 16
    out = model.hidden(IDS)
    grads = torch.autograd.grad(out.square().sum(), list(model.adapter_parameters().values()))
    for module in folded:
        module.__class__ = LoraLinear
    plain = model.hidden(IDS)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    for a, b in zip(
        grads, torch.autograd.grad(plain.square().sum(), list(model.adapter_parameters().values())), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_over_bf16_what_is_trained_is_what_is_merged(tmp_path):
    """Training rounds A and B; merging rounds W + s B A once: each is one bf16 rounding off the exact numbers."""
    model = small_model(tmp_path / "base", dtype=torch.bfloat16)
    exact = small_model(tmp_path / "exact").double()
    exact.load_state_dict({key: value.double() for key, value in model.state_dict().items()})
    with torch.no_grad():
        trained, wanted = model.hidden(IDS), exact.hidden(IDS)
        with model.merged():
            merged = model.hidden(IDS)
    assert all(parameter.dtype == torch.float32 for parameter in model.adapter_parameters().values())
    for found in (trained, merged):
        assert 0 < (found - wanted).norm() <= 2e-2 * wanted.norm()


def test_new_rows_have_the_norm_of_base_rows_and_differ_from_each_other():
    g = torch.Generator().manual_seed(0)
    base = torch.randn(400, 64, generator=g) * 0.02 + 0.01
    rows = initial_rows(base, 300, g)
    assert torch.allclose(rows.norm(dim=1), base.norm(dim=1).median().expand(300))
    unit = torch.nn.functional.normalize(rows, dim=1)
    cosine = (unit @ unit.T)[~torch.eye(300, dtype=bool)]
    base_unit = torch.nn.functional.normalize(base, dim=1)
    base_cosine = (base_unit @ base_unit.T)[~torch.eye(400, dtype=bool)]
    assert abs(float(cosine.mean() - base_cosine.mean())) < 0.05 and cosine.max() < 0.9


def test_quiet_rows_take_next_to_no_probability_where_the_base_is_sure():
    g = torch.Generator().manual_seed(0)
    base = torch.randn(400, 64, generator=g)
    hidden = base[:50]  # each sure of its own row; the other logits spread by 8 nats
    known = (hidden @ base.T).logsumexp(1)

    def share(rows):
        new = (hidden @ rows.T).logsumexp(1)
        return (new - torch.logaddexp(new, known)).exp().mean()

    quiet = quiet_rows(base, 4000, g)
    assert 0 < share(quiet) < 0.01 * share(initial_rows(base, 4000, g))
    assert share(base.mean(0, keepdim=True)) <= 1 / 400  # by Jensen, whatever the hidden state
    assert torch.allclose(quiet.std(0), 0.3 * base.std(0), rtol=0.1)  # and no two are the same


@pytest.mark.parametrize("tied", [True, False])
def test_only_output_rows_start_quietly(tmp_path, tied):
    base = save_base(tmp_path / "base", tied=tied)
    model = MultimodalLM.from_base(base, small_space(), LORA, seed=3)
    before = model.embedding.rows.detach().clone()
    model.start_rows_quietly(seed=3)
    assert torch.equal(model.embedding.rows, before) is not tied
    matrix, rows = model.head()
    g = torch.Generator().manual_seed(3)
    assert torch.equal(rows, quiet_rows(matrix, len(rows), g))


def test_start_values_depend_on_the_seed_alone(tmp_path):
    base = save_base(tmp_path / "base")
    torch.manual_seed(1)
    one = MultimodalLM.from_base(base, small_space(), LORA, seed=3)
    state = torch.get_rng_state()
    two = MultimodalLM.from_base(base, small_space(), LORA, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for key, parameter in one.adapter_parameters().items():
        assert torch.equal(parameter, two.adapter_parameters()[key])


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(base="/nowhere/at/all"), "no causal language model there"),
        (dict(lora={**LORA, "target_modules": ["nonsense"]}), "no such layer; found nonsense"),
        (dict(lora={**LORA, "target_modules": ["q_proj", "k_porj"]}), "did you mean 'k_proj'"),  # PEFT asks for one
        (dict(lora={**LORA, "target_modules": ["norm"]}), "cannot attach LoRA"),
    ],
)
def test_what_cannot_be_built_is_named(tmp_path, change, words):
    arguments = {"base": save_base(tmp_path / "base"), "lora": LORA, **change}
    with pytest.raises(UserError, match=words):
        MultimodalLM.from_base(arguments["base"], small_space(), arguments["lora"], seed=1)


def test_a_base_with_fewer_rows_than_the_text_is_refused(tmp_path):
    with pytest.raises(UserError, match="at least text_vocab_size = 50"):
        MultimodalLM.from_base(save_base(tmp_path / "base", padded_to=TEXT - 1), small_space(), LORA, seed=1)


def test_a_head_that_does_more_than_a_product_is_refused(tmp_path, monkeypatch):
    from transformers import Qwen3ForCausalLM

    right = Qwen3ForCausalLM.forward

    def scaled(self, *args, **kwargs):
        out = right(self, *args, **kwargs)
        out.logits = out.logits * 0.5
        return out

    monkeypatch.setattr(Qwen3ForCausalLM, "forward", scaled)
    with pytest.raises(UserError, match="more than a matrix product"):
        MultimodalLM.from_base(save_base(tmp_path / "base"), small_space(), LORA, seed=1)


def test_codes_reach_their_own_rows(tmp_path):
    """One step on one image code moves that row alone in the embedding."""
    model = small_model(tmp_path / "base", tied=False)
    code = int(model.space.image_to_global(np.array([3]))[0])
    model.hidden(torch.tensor([[1, code, 2]])).sum().backward()
    touched = model.embedding.rows.grad.abs().sum(1).nonzero()[:, 0].tolist()
    assert touched == [code - model.space.new_start]
