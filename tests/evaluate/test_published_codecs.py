"""A run in miniature on codecs of the published layouts: from media to files, gates B4 and C1, and what judges say."""

import re

import pytest

from mmpt.profile import load_profile
from mmpt.store.canonical import read_json
from mmpt.store.evidence import read_evidence
from tests.codecs.small_weights import write_encodec, write_llamagen
from tests.evaluate.conftest import BEFORE, PROFILE, Run
from tests.evaluate.judge_files import write_clap, write_clip

CODECS = """codecs:
  audio: {{name: encodec, path: ./encodec, clip_seconds: {seconds}, n_codebooks: 2}}
  image: {{name: llamagen, path: ./vq_ds16_t2i.pt, size: 16}}
examples: {{max_seq_len: 256, max_prompt_tokens: 64}}
"""


@pytest.mark.slow  # the whole chain, twice
@pytest.mark.parametrize(("geometry", "seconds"), [("24k", 0.5), ("48k", 0.3)])
def test_every_file_comes_out_whole(tmp_path, geometry, seconds):
    for name in ("encodec", "clip", "clap"):
        (tmp_path / name).mkdir()
    write_encodec(geometry, tmp_path / "encodec")
    write_llamagen(tmp_path / "vq_ds16_t2i.pt")
    write_clip(tmp_path / "clip"), write_clap(tmp_path / "clap")
    before, _, after = PROFILE.partition("codecs:")
    profile = before + CODECS.format(seconds=seconds) + after[after.index("text: {vocab") :]
    judges = "{scores: {clip: {path: ./clip}, clap: {path: ./clap}}, "
    profile = profile.replace("{trend:", judges + "trend:").replace(
        "pictures: 50, sounds: 50", "pictures: 30, sounds: 30"
    )
    (tmp_path / "mini.yaml").write_text(profile)
    run = Run(tmp_path / "artifacts", load_profile(str(tmp_path / "mini.yaml")))
    for stage in (*BEFORE, "preflight", "generate", "scores"):
        run.build(stage)
    for gate in ("C1", "B4"):
        metrics = read_evidence(run.data("generate") / f"evidence/{gate}.json")["metrics"]
        wrong = {
            (m["slice"], m["name"]): m["value"]
            for m in metrics
            if m["value"] != (1.0 if m["name"] == "decode_success_rate" else 0)
        }
        # what an untrained codec gives may be constant, silent, too loud or like another medium: form is what must hold
        quality = r"(constant|silent|clipped)_files|reconstruction_\w+|draw_rank_z"
        assert not {name for _, name in wrong if not re.fullmatch(quality, name)}, wrong
    published = read_json(run.data("scores") / "scores.json")["published"]
    assert {"t2i clip_score", "t2a clap_score", "t2a kad", "a2t caption_cider"} <= set(published)
