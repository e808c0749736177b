"""`doit sample` and `doit evaluate`: files and text come out, and a wrong argument is one clear error."""

import shutil
from argparse import Namespace

import numpy as np
import pytest

from mmpt.evaluate.commands import evaluate, sample
from mmpt.evaluate.media import png_faults, read_wav, write_wav
from mmpt.store.errors import UserError
from mmpt.store.schema import validate_file

DEFAULTS = {
    "prompt": None,
    "audio": None,
    "image": None,
    "out": None,
    "checkpoint": "final",
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "guidance": None,
    "seed": 0,
}


def asked(**given):
    return Namespace(**{**DEFAULTS, **given})


def test_a_sound_and_a_picture_and_what_they_are_read_as(run, tmp_path, capsys):
    wav, png = tmp_path / "x.wav", tmp_path / "new" / "x.png"
    assert (
        sample(
            run.root,
            run.profile,
            asked(task="t2a", prompt="a loud buzz", out=str(wav), temperature=1.0, guidance=2.0),
        )
        == 0
    )
    assert (
        sample(run.root, run.profile, asked(task="t2i", prompt="a red circle", out=str(png), checkpoint="step_2")) == 0
    )
    wave, rate = read_wav(wav)
    assert rate == 16000 and wave.shape == (1, 16000)
    assert "wrong_form" not in png_faults(png, size=(16, 16)) and "unreadable" not in png_faults(png, size=(16, 16))
    capsys.readouterr()
    assert sample(run.root, run.profile, asked(task="a2t", audio=str(wav))) == 0
    assert sample(run.root, run.profile, asked(task="i2t", image=str(png))) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_model_may_end_a_sound(run, tmp_path, capsys):
    wav = tmp_path / "x.wav"
    sample(run.root, run.profile, asked(task="t2a", prompt="a buzz", out=str(wav), temperature=1.0, learned_end=True))
    wave, rate = read_wav(wav)
    frames = wave.shape[1] * 10 / rate
    assert 1 <= frames <= 20 and (frames < 20 or "did not end" in capsys.readouterr().err)
    with pytest.raises(UserError, match="only sounds"):
        sample(run.root, run.profile, asked(task="t2i", prompt="x", out="x.png", learned_end=True))


def test_a_seed_decides_the_sample(run, tmp_path):
    def made(name, seed):
        sample(
            run.root,
            run.profile,
            asked(task="t2i", prompt="a red circle", out=str(tmp_path / name), temperature=1.0, seed=seed),
        )
        return (tmp_path / name).read_bytes()

    assert made("a.png", 1) == made("b.png", 1) != made("c.png", 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"task": "t2x", "prompt": "a"}, "unknown task"),
        ({"task": "t2i", "out": "x.png"}, "--prompt"),
        ({"task": "t2i", "prompt": "a", "out": "x.wav"}, ".png"),
        ({"task": "t2i", "prompt": "a"}, ".png"),
        ({"task": "a2t", "prompt": "a"}, "--audio"),
        ({"task": "t2a", "prompt": "a", "image": "x.png", "out": "x.wav"}, "--image"),
        ({"task": "i2t", "image": "none.png"}, "none.png"),
        ({"task": "i2t", "image": "x.png", "out": "x.txt"}, "--out"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "checkpoint": "step_3"}, "step_2"),
        ({"task": "t2i", "prompt": "word " * 99, "out": "x.png"}, "max_prompt_tokens"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "temperature": -1.0}, "--temperature: out of range; found -1"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "temperature": float("nan")}, "--temperature"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "top_p": 7.0}, "--top-p"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "top_k": -3}, "--top-k"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "guidance": float("inf")}, "--guidance"),
        ({"task": "t2i", "prompt": "a", "out": "x.png", "seed": -1}, "--seed"),
        ({"task": "t2i", "prompt": "a", "out": "/proc/x.png"}, "--out /proc/x.png: cannot be written"),
        ({"task": "t2a", "prompt": "a", "out": "/proc/x.wav"}, "--out /proc/x.wav: cannot be written"),
    ],
)
def test_wrong_arguments_of_sample(run, given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        sample(run.root, run.profile, asked(**given))
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_sound_longer_than_the_model_hears_is_told(run, tmp_path, capsys):
    write_wav(tmp_path / "long.wav", np.zeros((1, 40000)), 16000)
    sample(run.root, run.profile, asked(task="a2t", audio=str(tmp_path / "long.wav")))
    assert "hears the first 1 s of 2.5 s (codecs.audio.clip_seconds)" in capsys.readouterr().err
    write_wav(tmp_path / "short.wav", np.zeros((1, 16000)), 16000)
    sample(run.root, run.profile, asked(task="a2t", audio=str(tmp_path / "short.wav")))
    assert not capsys.readouterr().err


def test_evaluate_says_which_tasks_have_golden_items(run, tmp_path):
    shutil.copytree(run.root, tmp_path / "mini", ignore=shutil.ignore_patterns("work", "elsewhere"))
    for path in (tmp_path / "mini" / "golden" / "data").glob("*t2a*.jsonl"):
        path.unlink()  # as of a run without an audio codec
    options = Namespace(checkpoint="step_2", tasks="t2a", out=str(tmp_path / "looked"))
    with pytest.raises(UserError, match="no golden items of the tasks asked for; found t2a; expected a2t, i2t, t2i"):
        evaluate(tmp_path / "mini", run.profile, options)
    assert not (tmp_path / "looked").exists()


def test_evaluate_writes_one_folder_and_prints_a_table(run, tmp_path, capsys):
    out = tmp_path / "looked"
    assert evaluate(run.root, run.profile, Namespace(checkpoint="step_2", tasks="t2a,i2t", out=str(out))) == 0
    assert {path.name for path in out.glob("*.jsonl")} == {
        "step_2_golden_t2a.jsonl",
        "step_2_golden_i2t.jsonl",
    }
    validate_file(out / "prompt_ablation.json", "prompt_ablation")
    table = capsys.readouterr().out
    assert "t2a  greedy    valid 4/4" in table and "win rate" in table
    with pytest.raises(UserError, match="already"):
        evaluate(run.root, run.profile, Namespace(checkpoint="step_2", tasks="t2a", out=str(out)))


@pytest.mark.parametrize(
    ("given", "said"),
    [({"tasks": "t2b"}, "t2b"), ({"tasks": ""}, "unknown task"), ({"checkpoint": "step_7"}, "step_2")],
)
def test_wrong_arguments_of_evaluate(run, given, said, tmp_path):
    with pytest.raises(UserError) as caught:
        evaluate(
            run.root,
            run.profile,
            Namespace(**{"checkpoint": "final", "tasks": "t2a", "out": str(tmp_path / "o"), **given}),
        )
    assert said in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_before_any_run_there_is_a_clear_error(run, tmp_path):
    with pytest.raises(UserError, match="not built yet"):
        sample(tmp_path, run.profile, asked(task="t2i", prompt="a", out="x.png"))
