"""The library face: the page's examples run, an export gives what its run gives, and errors say what to do."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

import mmpt
from mmpt.build.code import CodeIndex
from mmpt.build.stage_table import STAGES, by_name
from mmpt.generate import PlainModel
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl

PAGE = Path(mmpt.__file__).parent / "LIBRARY.md"


@pytest.fixture(scope="module")
def finished(run):
    run.build("generate")
    run.build("staged_export")
    return run


@pytest.fixture(scope="module")
def loaded(finished):
    return mmpt.load(finished.root)


def test_every_block_of_the_page_runs(finished, tmp_path, monkeypatch, capsys):
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "smoke").symlink_to(finished.root, target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.S | re.M)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 5 and "psnr" in capsys.readouterr().out
    assert Image.open("circle.png").size == (16, 16) == names["picture"].shape[:2]
    assert soundfile.info("buzz.wav").frames == names["wave"].shape[1] == 16_000
    assert isinstance(names["caption"], str) and isinstance(names["heard"], str)


@pytest.mark.parametrize("place", ["run", "export"])
def test_a_run_and_its_export_give_the_runs_golden_ids(finished, loaded, place):
    opened = loaded if place == "run" else mmpt.load(finished.data("staged_export") / "export")
    step = f"step_{finished.trained().final}"
    rows = read_jsonl(finished.data("generate") / "qual" / step / f"{step}_golden_t2i.jsonl")
    made = opened.generate([row["caption"] for row in rows], task="t2i")
    assert [ids.tolist() for ids in made] == [row["ids"] for row in rows]
    pixels = np.asarray(Image.open(finished.data("generate") / "qual" / step / rows[0]["path"]))
    assert np.array_equal(opened.decode(made[0]), pixels)
    assert opened.generate(pixels, task="i2t").tolist() == loaded.generate(pixels, task="i2t").tolist()


def test_a_checkpoint_is_chosen_and_a_seed_decides(finished, loaded):
    early = mmpt.load(finished.root, checkpoint="step_0")
    assert not np.array_equal(early.generate("a beep", task="t2a"), loaded.generate("a beep", task="t2a"))
    drawn = [loaded.generate("a beep", task="t2a", temperature=1.0, seed=seed, guidance=2.0) for seed in (1, 1, 2)]
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])
    assert 1 <= len(loaded.generate("a beep", task="t2a", temperature=1.0, learned_end=True)) // 2 <= 20


def test_what_cannot_be_is_said(finished, loaded, tmp_path):
    with pytest.raises(UserError, match="neither a run nor an export"):
        mmpt.load(tmp_path)
    (tmp_path / "base" / "data").mkdir(parents=True)
    with pytest.raises(UserError, match="not finished; found no stage token_space; run doit first"):
        mmpt.load(tmp_path)
    with pytest.raises(UserError, match="no such checkpoint; found step_3; .*step_2"):
        mmpt.load(finished.root, checkpoint="step_3")
    with pytest.raises(UserError, match="unknown task"):
        loaded.generate("a", task="t2v")
    with pytest.raises(UserError, match="takes a text"):
        loaded.generate(3, task="t2i")
    with pytest.raises(UserError, match="several kinds; found AUDIO, IMAGE"):
        loaded.decode([loaded.space.ranges["IMAGE"].start, loaded.space.ranges["AUDIO_CB0"].start])


def test_a_head_that_is_no_matrix_is_refused(loaded):
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    small = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=4)
    lm = Qwen3ForCausalLM(Qwen3Config(vocab_size=9, hidden_size=8, intermediate_size=8, **small))
    lm.lm_head = torch.nn.Linear(8, 9, bias=True)
    with pytest.raises(ValueError, match="a head with a bias, a scale or a cap"):
        PlainModel(lm)


def test_importing_mmpt_imports_nothing_heavy():
    program = "import sys, mmpt; assert not {'torch', 'numpy', 'scipy'} & set(sys.modules); mmpt.tokens.grammar"
    subprocess.run([sys.executable, "-c", program], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'trains'"):
        mmpt.trains  # noqa: B018  (asking is what the test does)


def test_the_library_is_no_stages_code():
    index, stages = CodeIndex({"mmpt": Path(mmpt.__file__).parent}), by_name(STAGES)
    assert "mmpt.library" not in index.closure(stages["staged_export"].body)[0]
    assert not {"mmpt.library", "mmpt.codecs.registry"} & set(index.closure(stages["manifest"].body)[0])
