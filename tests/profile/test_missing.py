"""What a profile names and the machine lacks: all of it at once, with the way out."""

import re

import pytest

from mmpt.codecs import encodec_weights, llamagen, seed
from mmpt.profile import load_profile, packages
from mmpt.profile.missing import WEIGHTS, missing, require_present
from mmpt.store.errors import UserError


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, on a machine that has the optional packages whatever this environment has."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(packages, "installed", lambda package: True)
    return tmp_path


def test_the_trial_loads_and_names_everything_it_lacks(home):
    lost = missing(load_profile("trial"))
    assert [one.key for one in lost] == [
        *(f"corpus.sources.{name}.path" for name in ("clotho", "audiocaps", "wavcaps", "llava_pretrain")),
        *("base.path", "codecs.audio.path", "codecs.image.path", "text.replay_file", "text.heldout_file"),
    ]
    assert all(one.path.startswith(str(home / "mmpt-data")) for one in lost)


def test_weights_are_listed_as_their_codec_would_list_them(home):
    lost = {one.key: one.what for one in missing(load_profile("trial"))}
    for published in (*seed.DECODE_FILES, *seed.ENCODE_FILES):
        size = re.search(r"(about )?[\d.]+ GB", published.size).group()
        assert published.name.split("/")[0] in lost["codecs.image.path"] and size in lost["codecs.image.path"]
    assert all(name in lost["codecs.audio.path"] for name in (*encodec_weights.OFFICIAL, encodec_weights.URL))
    best = llamagen.FILES[0]
    assert best.name in WEIGHTS["llamagen"] and best.size in WEIGHTS["llamagen"]
    assert "16.4 GB for Qwen3-8B" in lost["base.path"]


def test_what_is_there_is_not_missing(home):
    (home / "mmpt-data" / "clotho").mkdir(parents=True)
    assert "corpus.sources.clotho.path" not in {one.key for one in missing(load_profile("trial"))}


def test_one_refusal_names_all_and_says_how_to_point_elsewhere(home):
    with pytest.raises(UserError) as caught:
        require_present(load_profile("promote"))
    text = str(caught.value)
    assert "9 things" in text and "extends: promote" in text and "Qwen3-8B-Base is not there" in text


def test_only_what_is_asked_for_counts(home):
    profile = load_profile("trial")
    assert {one.key for one in missing(profile, {"base.path"})} == {"base.path"}
    require_present(profile, {"token_space.expected"})


def test_a_hub_id_and_a_profile_without_files_lack_nothing(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: x\nbase: {kind: pretrained, path: Qwen/Qwen3-8B-Base}\n")
    assert missing(load_profile(str(path))) == [] and missing(load_profile("smoke")) == []


def test_a_folder_of_captions_that_is_not_there(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("extends: smoke\nname: x\ncorpus: {sources: [{name: a, reader: captions, path: nowhere}]}\n")
    assert "corpus.sources.a.path" in str(missing(load_profile(str(path)))[0])


def test_the_trial_is_the_specifications():
    data = load_profile("trial").data
    assert data["train"]["steps"] == 2000 and set(data["mixture"]["weights"].values()) == {0.25}
    assert data["golden"] == {"per_task": 64, "ablation": 256} and data["mixture"]["ramp"] > 0
    assert data["lora"]["r"] == 8 and len(data["lora"]["target_modules"]) == 7
    promoted = load_profile("promote").data
    assert promoted["train"]["steps"] > 2000 and promoted["lora"] == data["lora"]


def test_the_profiles_of_an_upstream_run_train_as_the_trial_does(home):
    trial = load_profile("trial").data
    for name in ("from_stage3", "imported"):
        data = load_profile(name).data
        same = ("runtime", "warmup", "mixture", "lora", "golden", "evaluate", "text")
        assert {key: data[key] for key in same} == {key: trial[key] for key in same}, name
        changed = {"row_len", "tokens_per_step", "activation_checkpointing"}
        assert {key: value for key, value in data["train"].items() if key not in changed} == {
            key: value for key, value in trial["train"].items() if key not in changed
        }
        # Rows hold a 48 kHz clip of 10 s: 1,515 frames x 4 codebooks, its caption and five specials.
        assert data["examples"]["max_seq_len"] >= 6060 + data["examples"]["max_prompt_tokens"] + 5
        assert data["train"]["tokens_per_step"] / trial["train"]["tokens_per_step"] == pytest.approx(
            6060 / 3000, rel=0.02
        )
    assert "stage4" not in load_profile("from_stage3").data["inputs"]
    assert load_profile("imported").data["inputs"]["stage4"]["step"] == 2000


def test_what_an_upstream_run_lacks_is_listed_with_what_belongs_there(home):
    lost = {one.key: one.what for one in missing(load_profile("imported"))}
    assert {"inputs.uti", "inputs.token_space", "inputs.stage3", "inputs.stage4.rows", "inputs.stage4.lora"} <= set(
        lost
    )
    assert "token_space.sha256" in lost["inputs.token_space"] and not any("corpus" in key for key in lost)


def test_packaged_profiles_state_the_specifications_numbers(home):
    """Specification, 4.4 to 4.6: 25 % for each task, a ramp, bf16, clipping, golden sets of 64, ablation of 256."""
    for name in ("trial", "promote", "from_stage3", "imported"):
        data = load_profile(name).data
        assert set(data["mixture"]["weights"].values()) == {0.25} and data["mixture"]["ramp"] > 0, name
        assert data["runtime"]["dtype"] == "bfloat16" and data["train"]["clip"] > 0, name
        assert data["golden"] == {"per_task": 64, "ablation": 256} and data["generate"]["temperature"] == 0, name
        assert data["base"]["kind"] == "pretrained" and "replay_file" in data["text"], name


@pytest.mark.parametrize(
    ("more", "package", "key"),
    [
        ("codecs: {image: {name: seed, path: ./w}}", "diffusers", "codecs.image.name"),
        ("codecs: {audio: {name: encodec, path: ./e.th, clip_seconds: 1}}", "encodec", "codecs.audio.path"),
        ("codecs: {audio: {name: snac, path: ./w, clip_seconds: 1}}", "snac", "codecs.audio.name"),
        ("base: {kind: pretrained, path: ., gguf_file: x.gguf}", "gguf", "base.gguf_file"),
        ("launcher: {kind: local, stages: {shards: {kind: ray, processes: 2}}}", "ray", "launcher.stages.shards.kind"),
        ("track: [wandb]", "wandb", "track"),
        ("launcher: {kind: slurm, slurm: {time: 60}}", "submitit", "launcher.kind"),
    ],
)
def test_a_package_that_is_not_installed_is_missing_before_anything_runs(tmp_path, monkeypatch, more, package, key):
    (tmp_path / "run.yaml").write_text(f"extends: smoke\nname: x\n{more}\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "e.th").touch()
    installed = {"diffusers", "encodec", "gguf", "ray", "snac", "pandas", "pyarrow", "fsspec", "submitit", "wandb"}
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: object() if name in installed else None)
    profile = load_profile(str(tmp_path / "run.yaml"))
    assert missing(profile) == []
    installed.remove(package)
    (lost,) = missing(profile)
    assert str(lost).startswith(f"{key}: package {package} is not installed") and "pip install" in str(lost)


def test_ray_without_what_ray_data_imports_is_not_installed(monkeypatch):
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name == "pandas" else object())
    assert not packages.installed("ray") and packages.installed("submitit")


def test_torchaudio_is_missing_for_the_one_class_that_imports_it(tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(
        "extends: smoke\nname: x\ncodecs: {audio: {name: transformers, path: ./w, clip_seconds: 1}}\n"
    )
    (tmp_path / "w").mkdir()
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    for kind, names in (("dac", []), ("higgs_audio_v2_tokenizer", ["torchaudio"]), ("[", [])):
        (tmp_path / "w/config.json").write_text(kind if kind == "[" else f'{{"model_type": "{kind}"}}')
        assert [one.path for one in missing(load_profile(str(tmp_path / "run.yaml")))] == names
