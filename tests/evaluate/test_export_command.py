"""`doit export`: nothing without a GO; with one a whole folder whose card tells the gates and whose example
runs."""

import json
import os
import re
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from mmpt.build import commands_out
from mmpt.build.commands_out import Export
from mmpt.build.decision_summary import DecisionSummary
from mmpt.build.policy import policy_of
from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.evaluate.commands import sample
from mmpt.gating import Waiver, evaluate_all
from mmpt.store.digests import Manifest
from mmpt.store.errors import UserError
from mmpt.store.jsonl import read_jsonl
from mmpt.store.schema import validate

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def project(run, tmp_path) -> Project:
    """The miniature run as a project: its artifacts below a clone with the real gates."""
    run.build_release()
    (tmp_path / "clone" / "artifacts").mkdir(parents=True)
    (tmp_path / "clone" / "artifacts" / "mini").symlink_to(run.root, target_is_directory=True)
    (tmp_path / "clone" / "gates").symlink_to(REPO / "gates", target_is_directory=True)
    return Project(STAGES, run.profile, tmp_path / "clone")


def options(target, **more):
    return Namespace(**{"to": str(target), "dtype": None, "strict": False, **more})


def test_without_evidence_nothing_is_written(project, tmp_path, capsys):
    assert Export().main(project, options(tmp_path / "out"), []) == 20
    assert "CANNOT-DECIDE: nothing exported" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"]


def test_an_occupied_target_is_refused_before_anything_else(project, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept.txt").write_text("x")
    with pytest.raises(UserError, match="there is something already"):
        Export().main(project, options(tmp_path / "out"), [])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept.txt"]


@pytest.fixture
def exported(project, tmp_path) -> Path:
    """What a GO would write, one gate waived."""
    verdicts = evaluate_all(project.root, policy_of(project), write=False)
    waiver = Waiver("Q1", "oracle", "image", "0" * 64, 0.5, "drawn by hand", "somebody", "2099-01-01")
    first = replace(verdicts[0], verdict="GO_WAIVED", waivers=(waiver,))
    (tmp_path / "out").mkdir()  # an empty folder is a good target
    parity = commands_out.write_export(project, [first, *verdicts[1:]], tmp_path / "out", None)
    assert parity["difference"] < 1e-5 and parity["positions"] > 0
    return tmp_path / "out"


def test_a_go_whose_release_was_not_built_is_no_export(project, tmp_path):
    found = DecisionSummary("GO", "GO", False, (), (), {})
    with pytest.raises(UserError, match="the release is not built; found .*; run doit first"):
        Export()._write(project, found, tmp_path / "out", None)
    assert not (tmp_path / "out").exists()


def test_a_go_with_its_release_is_written_and_told(project, tmp_path, monkeypatch, capsys):
    verdicts = tuple(evaluate_all(project.root, policy_of(project), write=False))
    monkeypatch.setattr(commands_out, "look", lambda *_, **__: DecisionSummary("GO", "GO", False, (), verdicts, {}))
    monkeypatch.setattr(commands_out, "reasons", lambda *_: [])  # its receipt: the miniature run has none
    command = Export()
    assert command.main(project, options(tmp_path / "out"), []) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    document = {"schema": "command/1", "command": "export", "profile": "mini", "exit_code": 0}
    validate({**document, "result": command.result}, "commands", where="export --json")
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_folder_is_whole_and_its_card_tells_all(exported, project, tmp_path):
    text = (exported / "README.md").read_text()
    listed = Manifest.parse((exported / "MANIFEST.sha256").read_text())
    assert {str(one) for one in listed.verify(exported)} == {"MANIFEST.sha256: not in the manifest"}
    names = dict(listed.entries)
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "token_space.json",
        "token_space.sha256",
    } <= set(names)
    assert {"adapter/adapter_model.safetensors", "adapter/adapter_config.json", "grammar_logits.py"} <= set(names)
    assert (
        "**GO (softened: W1.gap" in text
        and ", 1 gate waived, see below**" in text
        and "drawn by hand (somebody, until 2099-01-01)" in text
    )
    (own,) = [line for line in text.splitlines() if line.startswith("- W1.gap: severity")]
    assert own == f"- W1.gap: severity warn instead of block: {project.profile.data['gates'][0]['reason']}"
    for gate in ("K1", "C1", "B3", "R1"):
        assert f"| {gate} " in text
    assert (project.root / "token_space" / "data" / "token_space.sha256").read_text().strip() in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone", "out"]  # no staging folder is left


ALONE = """
import runpy, sys
sys.modules["mmpt"] = None  # as if it were not installed: an import of it fails
sys.path.insert(0, sys.argv[1])
import grammar_logits, transformers
given = sys.argv[2:]
while given:
    task, text, out, frames, *given = given
    # A golden sound has its recording's length, the folder's own a whole clip.
    exact = {"audio_frames": (int(frames),) * 2} if task == "t2a" else {}
    whole = grammar_logits.Grammar
    grammar_logits.Grammar = lambda folder: whole(folder, **exact)
    sys.argv[1:] = [task, text, out]
    print(*runpy.run_path(sys.argv[0])["made"][0].tolist())
    grammar_logits.Grammar = whole
"""


def golden_outputs(run):
    """(record, its row, the file that the run made of it) of the first golden outputs of both emit tasks."""
    step = f"step_{run.trained().final}"
    folder = run.data("generate") / "qual" / step
    for task in ("t2i", "t2a"):
        records = read_jsonl(run.data("golden") / f"golden_{task}_4.jsonl")
        rows = read_jsonl(folder / f"{step}_golden_{task}.jsonl")
        for record, row in list(zip(records, rows, strict=True))[:2]:
            yield record, row, folder / row["path"]


def test_the_folders_script_makes_the_runs_golden_files_where_mmpt_cannot_be_imported(exported, run, tmp_path):
    golden = list(golden_outputs(run))
    asked = [
        (one["task"], one["caption"], str(tmp_path / file.name), str(one.get("n_frames") or 0))
        for one, _, file in golden
    ]
    program = f"import sys; sys.argv[0] = {str(exported / 'sample.py')!r}\n{ALONE}"
    words = [sys.executable, "-I", "-c", program, str(exported), *(word for one in asked for word in one)]
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # as stages compute
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, env=one_thread)
    assert done.returncode == 0, done.stderr
    ids = [[int(word) for word in line.split()] for line in done.stdout.splitlines()]
    for (record, row, file), made in zip(golden, ids, strict=True):
        assert made[-len(row["ids"]) - 1 : -1] == row["ids"], record["id"]
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), record["id"]
    assert len(golden) == 4 and {file.suffix for *_, file in golden} == {".png", ".wav"}


def test_the_card_shows_the_script_that_is_in_the_folder_and_names_the_codecs(exported, run):
    text, script = (exported / "README.md").read_text(), (exported / "sample.py").read_text()
    assert re.search(r"```python\n(.*?)```", text, re.S).group(1) == script
    assert len([line for line in script.splitlines() if line and "import" not in line]) <= 10
    for modality in ("audio", "image"):
        about = json.loads((run.data("codecs") / modality / "codec.json").read_text())
        assert f"`codecs/{modality}`: {about['name']}, identity `{about['identity']}`; its codebooks are here" in text
        for name in ("codec.json", "codec.safetensors"):
            kept = run.data("codecs") / modality / name
            assert (exported / "codecs" / modality / name).read_bytes() == kept.read_bytes()


def test_an_exported_folder_gives_the_same_sample_as_the_run(exported, run, tmp_path):
    asked = {
        "task": "t2i",
        "prompt": "a red circle",
        "audio": None,
        "image": None,
        "seed": 0,
        "guidance": None,
    }
    asked |= dict.fromkeys(("temperature", "top_k", "top_p"))
    made = []
    for name, checkpoint in (("run.png", "final"), ("export.png", str(exported))):
        sample(run.root, run.profile, Namespace(**asked, checkpoint=checkpoint, out=str(tmp_path / name)))
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


def test_an_export_that_fails_leaves_nothing(project, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("in the middle")

    monkeypatch.setattr(commands_out, "card", fail)
    with pytest.raises(RuntimeError):
        commands_out.write_export(project, [], tmp_path / "out", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clone"]
