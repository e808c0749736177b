"""The `mmpt` command: the same commands as doit, from any folder of a project; `mmpt init`; the wheel."""

import io
import json
import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmpt.build.call import Call
from mmpt.build.console import COMMANDS, SETTINGS, absolute, main, project_folder
from mmpt.profile import load_profile
from mmpt.store.errors import UserError

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture
def captioned(tmp_path):
    folder = tmp_path / "My data"
    folder.mkdir()
    Image.new("RGB", (8, 8), "red").save(folder / "a.png")
    for name, seconds in (("b", 2), ("c", 4)):
        soundfile.write(folder / f"{name}.wav", np.zeros(seconds * 8000), 8000)
    lines = [
        {"id": "a", "image": "a.png", "caption": "a red square"},
        {"id": "b", "audio": "b.wav", "caption": "silence"},
    ]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_both_tables_of_commands_are_one():
    stated = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["doit"]
    assert stated["plugins"]["command"] == COMMANDS
    assert SETTINGS["LOADER"] == stated["plugins"]["loader"] and SETTINGS["BACKEND"] == stated["plugins"]["backend"]
    assert SETTINGS["GLOBAL"] == {"backend": stated["backend"], "loader": stated["loader"]}


def test_a_project_is_found_from_any_folder_inside_it(tmp_path):
    assert project_folder(REPO / "mmpt" / "build") == REPO
    with pytest.raises(UserError, match="no project in this folder or above it"):
        project_folder(tmp_path)


def test_paths_count_from_the_present_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").touch()
    assert absolute("out.png", "--out") == str(tmp_path / "out.png") and absolute("--to=x", "") == f"--to={tmp_path}/x"
    assert absolute("profile=run.yaml", "") == f"profile={tmp_path}/run.yaml"
    assert absolute("profile=smoke", "") == "profile=smoke" and absolute("step_450", "--checkpoint") == "step_450"


def test_hints_name_the_program_and_the_profile_as_typed(tmp_path):
    call = Call("mmpt", f"{tmp_path}/my run.yaml", {f"profile={tmp_path}/my run.yaml": "profile=my run.yaml"})
    assert str(call) == "mmpt 'profile=my run.yaml'" and str(Call()) == "doit"


def test_the_version_is_ours(capsys):
    assert main(["--version"]) == 0 and capsys.readouterr().out.startswith("mmpt ")


def test_init_writes_a_project_whose_profile_fits_the_data(captioned, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mine", "--from", str(captioned)]) == 0
    assert (
        "found 1 sounds and 1 pictures" in (said := capsys.readouterr().out)
        and "cd mine && mmpt profile=run.yaml" in said
    )
    profile = load_profile("mine/run.yaml")
    assert profile.name == "my-data" and profile.data["corpus"]["sources"][0]["path"] == str(captioned)
    assert 2.0 <= profile.data["codecs"]["audio"]["clip_seconds"] <= 4.0
    assert (tmp_path / "mine" / "gates" / "policy.yaml").is_file() and (tmp_path / "mine" / "dodo.py").is_file()
    assert main(["init", "mine"]) == 2 and "is a project already" in capsys.readouterr().err


def test_init_takes_out_a_modality_that_is_not_there(captioned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (captioned / "a.png").unlink()
    assert main(["init", "mine", "--from", str(captioned)]) == 0
    assert "image" not in load_profile("mine/run.yaml").data["codecs"]


@pytest.mark.parametrize(
    ("named", "reader"), [("My data", "table"), ("My data/metadata.csv", "table"), ("My data/own.csv", "table")]
)
def test_init_reads_a_table_with_other_names(captioned, tmp_path, monkeypatch, capsys, named, reader):
    """An imagefolder, its table by name, and a table with a name of its own and one bad line."""
    monkeypatch.chdir(tmp_path)
    (captioned / "captions.jsonl").unlink()
    (captioned / "metadata.csv").write_text("file_name,text\na.png,a red square\nb.wav,silence\n")
    (captioned / "own.csv").write_text("file_name,text\na.png,a red square\nz.png,\nb.wav,silence\n")
    assert main(["init", "mine", "--from", named]) == 0
    said = capsys.readouterr().out
    assert "found 1 sounds and 1 pictures" in said and ("1 bad record" in said) == named.endswith("own.csv")
    (source,) = load_profile("mine/run.yaml").data["corpus"]["sources"]
    assert (source["reader"], source.get("file")) == (reader, Path(named).name if named.endswith(".csv") else None)


def test_init_reads_parquet(tmp_path, monkeypatch, capsys):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.chdir(tmp_path)
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "png")
    rows = [{"image": {"bytes": stream.getvalue(), "path": "a.png"}, "text": f"a red square {n}"} for n in range(3)]
    (tmp_path / "set").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set" / "train.parquet")
    assert main(["init", "mine", "--from", "set/train.parquet"]) == 0
    assert "found 0 sounds and 3 pictures" in capsys.readouterr().out
    (source,) = load_profile("mine/run.yaml").data["corpus"]["sources"]
    assert (source["reader"], source["file"]) == ("parquet", "train.parquet")


def test_init_from_a_folder_without_captions_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    assert main(["init", "mine", "--from", "empty"]) == 2 and "no captions" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_builds_a_project(tmp_path):
    """Slow: pip builds a wheel in an isolated environment, then stages run in a fresh project."""
    run = subprocess.run
    wheel = tmp_path / "wheel"
    run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheel, REPO], check=True)
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    packages = run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    # This environment's dependencies, not its mmpt: an editable install is a .pth file, and a .pth file reads no other.
    shared = [path for path in sys.path if path.endswith("site-packages")]
    Path(packages.stdout.strip(), "shared.pth").write_text("\n".join(shared) + "\n")
    run([python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", *wheel.glob("*.whl")], check=True)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def mmpt(*words, folder):
        return run(
            [python.with_name("mmpt"), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )

    assert mmpt("init", "project", folder=tmp_path).returncode == 0
    project = tmp_path / "project"
    (project / "quick.yaml").write_text((REPO / "tests" / "pipeline" / "quick.yaml").read_text())
    (project / "below").mkdir()
    done = mmpt("shard_audit", "kernels", "profile=../quick.yaml", folder=project / "below")
    assert "built" in done.stdout and "BROKE" not in done.stdout + done.stderr, done.stdout + done.stderr
    name = load_profile(str(project / "quick.yaml")).name
    assert (project / "artifacts" / name / "shard_audit" / "receipt.json").is_file()
    assert mmpt("verify", "profile=quick.yaml", folder=project).stdout
