"""Profiles: inheritance, every violation named, rules between keys."""

import json

import pytest

from mmpt.profile import PACKAGED, load_profile, packages
from mmpt.profile.missing import require_present
from mmpt.store.errors import UserError


def write(folder, text):
    path = folder / "run.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in PACKAGED.glob("*.yaml") if path.stem not in ("captions", "imported"))
)
def test_packaged_profiles_hold_their_schema(name):
    assert load_profile(name).name == name


def test_a_profile_inherits_and_overrides(tmp_path):
    profile = load_profile(write(tmp_path, "extends: smoke\nname: mine\ntrain: {steps: 7, lr: {lora: 2e-3}}\n"))
    assert profile.name == "mine" and profile.data["train"]["steps"] == 7
    assert profile.data["train"]["lr"]["lora"] == 0.002
    assert profile.data["train"]["clip"] == load_profile("smoke").data["train"]["clip"]


@pytest.mark.parametrize(
    "text, said",
    [
        ("extends: smoke\nname: x\ntrian: {}\n", "unknown key 'trian'; did you mean 'train'"),
        ("extends: smoke\nname: x\ntrain: {steps: many}\n", 'train.steps: found "many"; expected integer'),
        ("extends: smoke\nname: x\nname: y\n", "key 'name' given twice"),
        ("a: [", ":1:"),
        ("- 1\n", "expected a mapping"),
        ("extends: smok\n", "did you mean 'smoke'"),
        ("extends: ./run.yaml\nname: x\n", "circle"),
        ("extends: smoke\nname: x\nsplit: {val: 0.6, test: 0.4}\n", "nothing to train on"),
        ("extends: smoke\nname: x\ntrain: {row_len: 16}\n", "packed row cannot hold"),
        ("extends: smoke\nname: x\ncodecs: {image: {patch: 5}}\n", "no multiple of the patch"),
        ("extends: smoke\nname: x\nmixture: {weights: {a2t: 0, i2t: 0, t2a: 0, t2i: 0}}\n", "weight 0"),
        (
            "extends: smoke\nname: x\nbase: {config: {num_attention_heads: 3}}\n",
            "num_attention_heads 3, num_key_value_heads 2",
        ),
        (
            "extends: smoke\nname: x\nbase: {config: {num_key_value_heads: 0}}\n",
            "base.config.num_key_value_heads: no number of heads",
        ),
        (
            "extends: smoke\nname: x\nbase: {config: {num_attention_heads: four}}\n",
            "num_attention_heads: no number of heads; found four",
        ),
        ("extends: smoke\nname: x\nbase: {kind: pretrained}\n", "missing key 'path'"),
        (
            "extends: smoke\nname: x\nlora: {target_modules: [q_proj, k_porj]}\n",
            "lora.target_modules: the base has no such layer; found k_porj; did you mean 'k_proj'?",
        ),
        ("extends: smoke\ntrain: {steps: 7}\n", "needs a name of its own"),  # else it would build over artifacts/smoke
        ("extends: smoke\nname: x\ntrain: {lr: {lora: .nan}}\n", "train.lr.lora: not a finite number; found nan"),
        (
            "extends: smoke\nname: x\ngates: [{gate: B3, check: win_swapped, threshold: -.inf, reason: a reason}]\n",
            "gates[0].threshold: not a finite number",
        ),
        ("extends: smoke\nname: x\nseed: 99999999999999999999\n", "seed: the number is too large"),
        (
            f"extends: smoke\nname: x\nseed: {'9' * 400}\n",
            "seed: the number is too large; found 99999999999999999999..",
        ),
        ("extends: smoke\nname: x\nruntime: {threads: 100000}\n", "runtime.threads: found 100000"),
        (f"extends: smoke\nname: {'x' * 300}\n", "name: found"),
        (
            "extends: smoke\nname: x\ncorpus: {sources: [{name: a, reader: captoins, path: .}]}\n",
            "did you mean 'captions'?",
        ),
    ],
)
def test_bad_profiles_say_what_is_wrong(tmp_path, text, said):
    with pytest.raises(UserError) as caught:
        load_profile(write(tmp_path, text))
    assert said in str(caught.value)


def test_layers_of_lora_are_looked_for_in_the_base_that_is_there(tmp_path):
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"model.layers.0.attn.qkv.{part}": entry for part in ("weight", "bias")}).encode()
    text = "extends: smoke\nname: x\nbase: {{kind: pretrained, path: {}}}\nlora: {{target_modules: [{}]}}\n"
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    for good in ("qkv", "attn.qkv"):
        load_profile(write(tmp_path, text.format("base", good)))
    load_profile(write(tmp_path, text.format("someone/elsewhere", "c_attn")))  # a hub id: the stage says it
    with pytest.raises(UserError, match="no such layer; found kv; did you mean 'qkv'"):
        load_profile(write(tmp_path, text.format("base", "kv")))
    (tmp_path / "base" / "a.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(UserError, match="a.safetensors: the file is damaged, or half a download"):
        load_profile(write(tmp_path, text.format("base", "kv")))


def test_unknown_name_offers_the_nearest():
    with pytest.raises(UserError, match="did you mean 'smoke'"):
        load_profile("smokey")
    with pytest.raises(UserError, match="no such profile file"):
        load_profile("nowhere/run.yaml")


def test_relative_media_folder_is_taken_from_the_profile_file(tmp_path):
    (tmp_path / "media").mkdir()
    text = "extends: smoke\nname: x\ncorpus: {sources: [{name: a, reader: captions, path: media}]}\n"
    assert load_profile(write(tmp_path, text)).media_roots() == {"a": tmp_path / "media"}


def test_another_codec_does_not_inherit_the_options_of_the_one_it_replaces(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: x\ncodecs: {audio: {name: encodec, path: facebook/x, clip_seconds: 2.0}}\n")
    data = load_profile(str(path)).data
    assert data["codecs"]["audio"] == {"name": "encodec", "path": "facebook/x", "clip_seconds": 2.0}
    assert data["codecs"]["image"]["name"] == "patchvq"
    path.write_text("extends: smoke\nname: x\ncodecs: {audio: {name: melrvq, clip_seconds: 2.0}}\n")
    assert load_profile(str(path)).data["codecs"]["audio"]["options"] == {"stack": 8}  # the same one keeps them


@pytest.mark.parametrize(
    "codec", ["audio: {name: encodec, path: ./gone.th, clip_seconds: 1.0}", "image: {name: seed, path: ./gone}"]
)
def test_weights_that_are_not_there_are_refused_before_anything_is_built(tmp_path, monkeypatch, codec):
    monkeypatch.setattr(packages, "installed", lambda package: True)
    path = tmp_path / "run.yaml"
    path.write_text(f"extends: smoke\nname: x\ncodecs: {{{codec}}}\n")
    with pytest.raises(
        UserError, match=r"codecs\.(audio|image)\.path: .*gone(\.th)? is not there .*\n.* or edit run.yaml"
    ):
        require_present(load_profile(str(path)))


def test_a_codec_set_to_nothing_takes_its_modality_out(tmp_path):
    """What gate S1 advises a team that has only pictures."""
    data = load_profile(write(tmp_path, "extends: smoke\nname: x\ncodecs: {audio: null}\n")).data
    assert set(data["codecs"]) == {"image"} and data["codecs"]["image"]["name"] == "patchvq"
    with pytest.raises(UserError, match="codecs: found {}; expected at least 1 of audio, image"):
        load_profile(write(tmp_path, "extends: smoke\nname: x\ncodecs: {audio: null, image: null}\n"))


@pytest.mark.parametrize("name", ["smoke", "captions"])
def test_profiles_on_the_tiny_base_soften_no_gate(name):
    assert not load_profile(name).data.get("gates")


def test_a_profile_that_forgot_to_extend_one_is_told_so(tmp_path):
    with pytest.raises(UserError) as caught:
        load_profile(write(tmp_path, "name: mine\ntrain: {steps: 5}\n"))
    text = str(caught.value)
    assert "has no `extends`" in text and "begin it with `extends: smoke`" in text and text.count("'seed'") == 1
    assert "\n" not in text


def test_a_value_in_the_place_of_a_section_names_its_keys(tmp_path):
    said = "train.lr: found 0.001; expected object with lora, embed, head, layer_norm"
    with pytest.raises(UserError, match=said):
        load_profile(write(tmp_path, "extends: smoke\nname: mine\ntrain: {lr: 0.001}\n"))
