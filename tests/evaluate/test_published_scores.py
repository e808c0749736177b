"""CLIP, CLAP and KAD on small random models: what they compute, what they refuse, and that stage scores tells it."""

import numpy as np
import pytest
import torch

from mmpt.evaluate.audio_distance import kad
from mmpt.evaluate.clap import Clap
from mmpt.evaluate.clip import Clip
from mmpt.gating.policy import load_policy
from mmpt.gating.verdicts import decide_evidence
from mmpt.profile import load_profile
from mmpt.stages.scores import scores
from mmpt.store.errors import UserError
from mmpt.store.evidence import read_evidence
from mmpt.store.schema import validate_file
from mmpt.store.stage import SliceView
from tests.evaluate.judge_files import write_clap, write_clip


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("judges")
    return write_clip(root / "clip"), write_clap(root / "clap")


def test_clip_embeds_each_picture_and_caption_alone_and_cuts_long_captions(judges):
    clip = Clip.open(str(judges[0]), "cpu")
    pictures = list(np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8))
    captions = ["a red circle", "dog", "x " * 60]
    seen, said = clip.embeddings(pictures, captions)
    assert seen.shape == said.shape == (3, 16)
    assert np.allclose(np.linalg.norm(seen, axis=1), 1, atol=1e-5)
    again = clip.embeddings(pictures[1:2], captions[1:2])
    assert np.allclose(again[0], seen[1:2], atol=1e-5) and np.allclose(again[1], said[1:2], atol=1e-5)
    with torch.inference_mode():  # the model's own answer
        inputs = clip.tokenizer(captions[:1], return_tensors="pt")
        pixels = clip.processor(images=pictures[:1], return_tensors="pt").pixel_values
        own = clip.model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask, pixel_values=pixels)
        cosine = own.logits_per_image / clip.model.logit_scale.exp()
    assert float(seen[0] @ said[0]) == pytest.approx(float(cosine), abs=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_clap_hears_at_its_own_rate_and_the_same_each_time(fused, tmp_path):
    clap = Clap.open(str(write_clap(tmp_path, fused)), "cpu")
    rng = np.random.default_rng(0)
    sounds = [(rng.standard_normal((1, 8000)).astype(np.float32) * 0.1, 16_000) for _ in range(3)]
    sounds.append((rng.standard_normal((2, 96_000)).astype(np.float32) * 0.1, 24_000))  # longer than the model hears
    heard, said = clap.embeddings(sounds, ["a", "b", "c", "d"])
    assert heard.shape == said.shape == (4, 16)
    for seed in range(3):  # whatever numpy's random state, which the extractor draws from
        np.random.seed(seed)
        assert np.array_equal(clap.embeddings(sounds, ["a", "b", "c", "d"])[0], heard)
    assert np.abs(heard[0] - heard[1]).max() > 1e-4


def test_kad_by_hand_and_at_its_ends():
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((40, 8)), rng.standard_normal((50, 8))
    far = two + 3
    assert abs(kad(one, two)) < 1 < kad(one, far)  # one distribution: about nothing
    assert kad(one + 0.3, two) < kad(one + 1, two) < kad(one + 2, two)
    pair = np.array([[0.0], [1.0]])  # width 1: k = exp(-d^2 / 2)
    expected = 100 * (np.exp(-0.5) + np.exp(-0.5) - 2 * np.mean([np.exp(-2), np.exp(-0.5), np.exp(-4.5), np.exp(-2)]))
    assert kad(np.array([[2.0], [3.0]]), pair) == pytest.approx(expected)
    assert np.mean([kad(*np.split(rng.standard_normal((16, 4)), 2)) for _ in range(300)]) == pytest.approx(0, abs=0.6)
    with pytest.raises(ValueError, match="two items"):
        kad(one[:1], two)


def judged(run, judges, out, **asked):
    """Stage scores with the models that the profile asks for."""
    ctx = run.context("scores", out)
    profile = {**run.profile.data, "evaluate": {**run.profile.data["evaluate"], "scores": asked}}
    ctx.profile = SliceView(profile, ctx.profile._keys, "scores")
    scores(ctx)
    return read_evidence(out / "evidence/T1.json")


def test_scores_measures_what_the_profile_asks_for(run, judges, tmp_path):
    run.build("generate")
    evidence = judged(run, judges, tmp_path, clip={"path": str(judges[0])}, clap={"path": str(judges[1])})
    validate_file(tmp_path / "scores.json", "scores")
    found = {(m["name"], m["slice"]): m for m in evidence["metrics"]}
    for kind, task in (("clip", "t2i"), ("clap", "t2a")):
        for name in (
            f"{kind}_score",
            f"{kind}_score_reconstruction",
            f"{kind}_score_step_0",
            f"{kind}_gap_to_swapped",
        ):
            assert -1.001 <= found[name, task]["value"] <= 1.001 and found[name, task]["n"] == 4
            assert found[name, task]["ci_low"] <= found[name, task]["value"] <= found[name, task]["ci_high"]
    assert {"kad", "kad_step_0"} <= {name for name, _ in found}
    assert {"clip", "clap"} <= set(evidence["subject"])
    for task in ("a2t", "i2t"):
        assert 0 <= found["caption_bleu4", task]["value"] <= 1 and 0 <= found["caption_cider", task]["value"] <= 10
    policy = load_policy(None, run.profile.data)
    verdict = decide_evidence(policy.gate("T1"), evidence, policy, "0" * 64)
    assert verdict.verdict in ("GO", "GO_WAIVED")  # trends warn, they never block


def test_unasked_models_are_not_opened(run, judges, tmp_path):
    run.build("generate")
    evidence = judged(run, judges, tmp_path, clap={"path": str(judges[1]), "kad": False})
    names = {m["name"] for m in evidence["metrics"]}
    assert "clap_score" in names and not {"kad", "clip_score"} & names
    assert "clip" not in evidence["subject"]


def test_missing_and_incomplete_models_are_refused_with_what_is_missing(judges, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="incomplete.*model.safetensors and preprocessor_config.json.*openai/clip"):
        Clip.open(str(tmp_path), "cpu")
    for name in ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((judges[1] / name).read_bytes())
    from safetensors.torch import load_file, save_file

    weights = load_file(judges[1] / "model.safetensors")
    weights.pop("audio_projection.linear1.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="weights are incomplete.*audio_projection.linear1.weight"):
        Clap.open(str(tmp_path), "cpu")


def test_a_hub_that_cannot_be_reached_is_a_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="evaluate.scores.clap.path.*found somebody/clap.*laion/clap-htsat-unfused"):
        Clap.open("somebody/clap", "cpu")


def test_a_folder_that_is_not_there_is_refused_when_the_profile_is_read(tmp_path):
    (tmp_path / "run.yaml").write_text("extends: smoke\nname: x\nevaluate: {scores: {clip: {path: ./nowhere}}}\n")
    with pytest.raises(UserError, match="evaluate.scores.clip.path.*nowhere"):
        load_profile(str(tmp_path / "run.yaml"))
