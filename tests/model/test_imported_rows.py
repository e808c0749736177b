"""trainable_rows.pt and LoRA folders of the reference: what is taken from them, and what is refused."""

import json
import pickle
import shutil

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from mmpt.model.imported import load_lora, load_rows
from mmpt.store.errors import UserError
from mmpt.tokens.space import from_json, upstream_sha
from tests.model.tiny_model import LORA, small_model, small_space

REFERENCE = from_json({**small_space().to_json(), "version": "uti_v1", "created_utc": "2026-01-27"})


@pytest.fixture
def model(tmp_path):
    """An untied model whose token space was read from a reference file."""
    made = small_model(tmp_path / "base", tied=False, padded_to=60)
    made.space = REFERENCE
    return made


def rows(model, **changes):
    shape = model.embedding.rows.shape
    generator = torch.Generator().manual_seed(2)
    return {
        "row_start": 50,
        "row_end": REFERENCE.vocab_size_total,
        "base_llm": "x",
        "embeddings": torch.randn(shape, generator=generator).to(torch.bfloat16),
        "lm_head": torch.randn(shape, generator=generator).to(torch.bfloat16),
        "dtype": "torch.bfloat16",
        **changes,
    }


def save(folder, content, space=REFERENCE):
    folder.mkdir(exist_ok=True)
    torch.save(content, folder / "trainable_rows.pt")
    if space:
        (folder / "token_space.json").write_text(json.dumps(space.to_json(), indent=2))
    return folder


def test_rows_arrive_in_fp32(model, tmp_path):
    stored = rows(model)
    load_rows(model, save(tmp_path / "checkpoint_9", stored))
    assert torch.equal(model.embedding.rows, stored["embeddings"].float())
    assert torch.equal(model.head_rows, stored["lm_head"].float())
    load_rows(model, tmp_path / "checkpoint_9" / "trainable_rows.pt")  # the file itself may be named, too


class Opened:
    """What a malicious file would run on loading."""

    def __reduce__(self):
        return (print, ("loading ran code",))


def test_a_file_with_pickled_objects_is_not_loaded(model, tmp_path, capsys):
    folder = save(tmp_path / "c", rows(model, extra=Opened()))
    with pytest.raises(UserError, match="pickled objects, or damaged.*must not run code"):
        load_rows(model, folder)
    (folder / "trainable_rows.pt").write_bytes(pickle.dumps(Opened()))
    with pytest.raises(UserError, match="pickled objects"):
        load_rows(model, folder)
    assert "loading ran code" not in capsys.readouterr().out


BAD = [
    (dict(row_start=51), "row_start: rows of another token space; found 51; expected 50"),
    (dict(row_end=99), "row_end: rows of another token space"),
    (dict(embeddings=torch.zeros(3, 16)), r"embeddings: rows of another shape; found \[3, 16\]"),
    (dict(lm_head=None), "tied and untied heads do not mix"),
    (dict(embeddings=torch.full((40, 16), float("nan"))), "rows with NaN or Inf"),
]


@pytest.mark.parametrize(("change", "said"), BAD)
def test_rows_that_do_not_fit_are_refused(model, tmp_path, change, said):
    assert model.embedding.rows.shape == (40, 16)
    with pytest.raises(UserError, match=said):
        load_rows(model, save(tmp_path / "c", rows(model, **change)))


def test_a_tied_model_refuses_rows_of_a_head(tmp_path):
    tied = small_model(tmp_path / "base")
    tied.space = REFERENCE
    with pytest.raises(UserError, match="tied and untied"):
        load_rows(tied, save(tmp_path / "c", rows(tied)))
    load_rows(tied, save(tmp_path / "c", rows(tied, lm_head=None)))


@pytest.mark.parametrize("cut", [10, 1000])
def test_a_truncated_file_is_refused(model, tmp_path, cut):
    path = save(tmp_path / "c", rows(model)) / "trainable_rows.pt"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(UserError, match="not a file of torch|damaged"):
        load_rows(model, path)


def test_a_checkpoint_of_another_token_space_or_of_none_is_refused(model, tmp_path):
    other = from_json({**REFERENCE.to_json(), "created_utc": "2026-01-28"})
    assert upstream_sha(other.to_json()) != upstream_sha(REFERENCE.to_json())
    with pytest.raises(UserError, match="trained for another token space"):
        load_rows(model, save(tmp_path / "c", rows(model), other))
    with pytest.raises(UserError, match="does not say which token space"):
        load_rows(model, save(tmp_path / "d", rows(model), None))
    with pytest.raises(UserError, match="no such file"):
        (tmp_path / "c" / "trainable_rows.pt").unlink()
        (tmp_path / "c" / "token_space.json").write_text(json.dumps(REFERENCE.to_json()))
        load_rows(model, tmp_path / "c")


@pytest.fixture
def lora(model, tmp_path):
    """A folder as the reference saved one: PEFT's, with both whole matrices beside the LoRA matrices."""
    source = small_model(tmp_path / "source", tied=False, padded_to=60, seed=9)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    base.resize_token_embeddings(REFERENCE.vocab_size_total, mean_resizing=False)
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=LORA["r"], lora_alpha=LORA["alpha"], target_modules=LORA["target_modules"])
    tuned = get_peft_model(base, config)
    values = {name: p for name, p in source.adapter_parameters().items() if ".lora_" in name}
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(values[name.replace(".default.", ".")])
    tuned.save_pretrained(tmp_path / "lora_9", save_embedding_layers=True)
    return tmp_path / "lora_9", values


def test_lora_matrices_arrive_and_whole_matrices_are_passed_over(model, lora):
    folder, values = lora
    over = load_lora(model, folder)
    assert {name.rsplit(".", 2)[-2] for name in over} == {"embed_tokens", "lm_head"}
    own = {name: p for name, p in model.adapter_parameters().items() if ".lora_" in name}
    assert own.keys() == values.keys() and all(torch.equal(own[name], values[name]) for name in own)


def test_the_imported_model_gives_the_logits_that_peft_gives(model, lora, tmp_path):
    folder, _ = lora
    stored = rows(model)
    load_rows(model, save(tmp_path / "c", stored))
    load_lora(model, folder)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(REFERENCE.vocab_size_total, mean_resizing=False)
    tuned = PeftModel.from_pretrained(base, folder).eval()
    with torch.no_grad():
        tuned.get_input_embeddings().weight[50:] = stored["embeddings"].float()
        tuned.get_output_embeddings().weight[50:] = stored["lm_head"].float()
        first = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        tuned.get_input_embeddings().weight[:50] = first.get_input_embeddings().weight[:50]
        tuned.get_output_embeddings().weight[:50] = first.get_output_embeddings().weight[:50]
        ids = torch.tensor([[3, 7, 55, 66, 70, 80, 2]])
        ours = model.eval().logits(model.hidden(ids))
        theirs = tuned(input_ids=ids).logits
    assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("r", 8, "r: the adapter has another LoRA"),
        ("lora_alpha", 1, "alpha"),
        ("target_modules", ["q_proj"], "target"),
    ],
)
def test_another_lora_configuration_is_refused(model, lora, key, value, said):
    path = lora[0] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(UserError, match=said):
        load_lora(model, lora[0])


def test_a_missing_matrix_and_a_foreign_tensor_are_refused(model, lora, tmp_path):
    from safetensors.torch import load_file, save_file

    path = lora[0] / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(key for key in tensors if "lora_A" in key)
    save_file({key: one for key, one in tensors.items() if key != name}, path)
    with pytest.raises(UserError, match="missing or of another shape"):
        load_lora(model, lora[0])
    save_file({**tensors, "base_model.model.model.norm.weight": torch.zeros(16)}, path)
    with pytest.raises(UserError, match="trains more than LoRA"):
        load_lora(model, lora[0])
    path.unlink()
    torch.save({**tensors, "x": Opened()}, lora[0] / "adapter_model.bin")
    with pytest.raises(UserError, match="pickled objects"):
        load_lora(model, lora[0])
    torch.save(tensors, lora[0] / "adapter_model.bin")
    load_lora(model, lora[0])
    shutil.rmtree(lora[0])
    with pytest.raises(UserError, match="no such file"):
        load_lora(model, lora[0])
