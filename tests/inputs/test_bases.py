"""Base models that people have: pointers, halves, quantised ones, tensors that are missing or others, fused experts,
code of their own.
"""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from mmpt.evaluate.exporting import open_tokenizer
from mmpt.model.base import copy_pretrained
from mmpt.model.loading import load_causal_lm, map_causal_lm
from mmpt.model.runtimes import open_plain
from mmpt.profile import load_profile
from mmpt.store.errors import UserError
from mmpt.store.model_files import POINTER, check_model_folder
from mmpt.store.tensors import load_tensors
from tests.model.tiny_model import save_base


@pytest.fixture
def base(tmp_path):
    return save_base(tmp_path / "base")


def rewritten(base, change):
    """The base with other tensors: change(name -> tensor)."""
    from safetensors.torch import save_file

    path = base / "model.safetensors"
    tensors = load_tensors(path, "torch")
    path.unlink()
    save_file(change(tensors), path, metadata={"format": "pt"})


def damaged(base, how):
    """The base with one file as downloads leave it."""
    weights, config = base / "model.safetensors", base / "config.json"
    data = weights.read_bytes()
    if how == "pointer":
        weights.write_bytes(POINTER + b"v1\noid sha256:00\nsize 16000000\n")
    elif how == "config pointer":
        config.write_bytes(POINTER + b"v1\n")
    elif how == "half":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "longer":
        weights.write_bytes(data + b"x")
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "header":
        weights.write_bytes((1 << 40).to_bytes(8, "little") + data[8:])
    elif how == "half a config":
        config.write_text('{"model_type": "qwen3", ')
    elif how == "half a tokenizer":
        (base / "tokenizer.json").write_text('{"model": {')
    elif how == "a shard":
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00002.safetensors"}}))
    elif how == "an index":
        (base / "model.safetensors.index.json").write_text("[")
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": {"quant_method": how}}))


WRONG = {
    "pointer": "Git LFS pointer .*git lfs pull",
    "config pointer": "Git LFS pointer",
    "half": "half a download; found .* bytes",
    "longer": "damaged",
    "empty": "damaged",
    "header": "damaged",
    "half a config": "no JSON",
    "half a tokenizer": "no closing brace",
    "a shard": "missing; found model-00002.safetensors",
    "an index": "no weight_map",
    **{
        method: f"stored quantised; found {method}"
        for method in ("awq", "gptq", "bitsandbytes", "compressed-tensors", "mxfp4")
    },
}


@pytest.mark.parametrize("how", WRONG)
def test_a_base_that_is_not_whole_and_plain_is_one_line_wherever_it_is_met(tmp_path, base, how):
    damaged(base, how)
    (tmp_path / "run.yaml").write_text(
        "extends: smoke\nname: x\nbase: {kind: pretrained, path: ./base}\nlora: {target_modules: [q_proj]}\n"
    )
    for met in (
        lambda: check_model_folder(base, "base.path"),
        lambda: load_profile(str(tmp_path / "run.yaml")),
        lambda: copy_pretrained(tmp_path / "copy", str(base), None, torch.float32),
        lambda: load_causal_lm(base, torch.float32),
        lambda: map_causal_lm(base, torch.float32),
    ):
        with pytest.raises(UserError, match=WRONG[how]) as error:
            met()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "copy").exists()


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda all: {k: v for k, v in all.items() if k != DOWN}, f"found .*: 1 missing, as {DOWN}"),
        (
            lambda all: {k.replace("model.", "transformer."): v for k, v in all.items()},
            "missing, as .*unexpected, as transformer",
        ),
        (lambda all: {**all, "model.layers.0.self_attn.q_proj.bias": torch.zeros(8)}, "1 unexpected, as .*q_proj.bias"),
        (lambda all: {k: v[:3] if k == DOWN else v for k, v in all.items()}, "no causal language model|mismatched"),
    ],
)
def test_a_base_with_other_tensors_is_refused_and_not_filled_up(base, change, match):
    load_causal_lm(base, torch.float32)
    rewritten(base, lambda tensors: {name: one.contiguous() for name, one in change(tensors).items()})
    with pytest.raises(UserError, match=match):
        load_causal_lm(base, torch.float32)


def test_experts_are_no_target_of_lora(tmp_path):
    config = Qwen3MoeConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        num_experts=2,
        moe_intermediate_size=8,
        num_experts_per_tok=1,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path / "base")
    profile = tmp_path / "run.yaml"
    text = (
        "extends: smoke\nname: x\nbase: {kind: pretrained, path: ./base}\nlora: {target_modules: [q_proj, gate_proj]}\n"
    )
    profile.write_text(text)
    with pytest.raises(
        UserError, match=r"experts, which transformers keeps in one tensor; found gate_proj|no such layer"
    ):
        load_profile(str(profile))
    profile.write_text(text.replace(", gate_proj", ""))
    load_profile(str(profile))


OWN = """
from pathlib import Path
from transformers import PreTrainedTokenizerFast as Words, Qwen3Config as Settings, Qwen3ForCausalLM as Model
Path(__file__).with_name("ran").touch()
"""
MAP = {"AutoConfig": "own.Settings", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": [None, "own.Words"]}


@pytest.mark.parametrize(
    "opened",
    [
        lambda folder: load_causal_lm(folder, torch.float32),
        lambda folder: map_causal_lm(folder, torch.float32),
        lambda folder: open_plain(folder, torch.float32, "cpu"),
        open_tokenizer,
    ],
)
def test_code_that_a_base_brings_does_not_run_even_where_somebody_says_yes(base, monkeypatch, opened):
    """transformers asks on the terminal whether it may, where nobody decided it before."""
    own = {"model_type": "own", "architectures": ["Model"], "auto_map": MAP, "tokenizer_class": "Words"}
    for name in ("config.json", "tokenizer_config.json"):
        known = json.loads((base / name).read_text()) if (base / name).is_file() else {}
        (base / name).write_text(json.dumps(known | own))
    imported = base.parent / "modules"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(imported))
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (base / "own.py").write_text(OWN)
    with pytest.raises((UserError, ValueError), match="custom code"):
        opened(base)
    assert not list(imported.rglob("ran")) and not (base / "ran").exists()


def auto_calls(path):
    """(line, keywords) of every `Auto...from_pretrained(..)` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and re.fullmatch(r"Auto\w+\.from_pretrained", ast.unparse(node.func)):
            yield node.lineno, {one.arg: getattr(one.value, "value", None) for one in node.keywords}


def test_every_folder_that_transformers_opens_is_opened_without_its_code():
    package = Path(__file__).resolve().parents[2] / "mmpt"
    files = [path for path in package.rglob("*.py") if ".from_pretrained(" in path.read_text()]
    found = [(path.name, line, asked) for path in files for line, asked in auto_calls(path)]
    assert len(found) > 8 and [one for one in found if one[2].get("trust_remote_code") is not False] == []
