"""`doit push`: the real library of the hub talks to a server on this machine."""

import pytest

from mmpt.build import commands_push
from mmpt.build.commands_push import upload
from mmpt.store.errors import UserError
from tests.build.hub_server import hub


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_nobody")
    made = tmp_path / "out"
    (made / "adapter").mkdir(parents=True)
    (made / "README.md").write_text("---\nlibrary_name: transformers\n---\n# a model\n")
    (made / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (made / "adapter" / "adapter_config.json").write_text("{}")
    return made


def test_the_repository_becomes_the_folder(folder, monkeypatch):
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.files = {"of_an_earlier_push.safetensors": b"old", ".gitattributes": b"kept"}
        address = upload(folder, "me/model", private=True, message="GO")
        assert address.startswith(server.address) and server.private is True and server.commits == ["GO"]
        kept = {path: content for path, content in server.files.items() if path != ".gitattributes"}
        assert kept == {
            path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
        }


def test_a_hub_that_refuses_is_one_clear_line(folder, monkeypatch):
    with hub(refuses=True) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        with pytest.raises(UserError, match="me/model: the model cannot be pushed; found ") as refused:
            upload(folder, "me/model", private=False, message="GO")
    assert "HF_TOKEN" in str(refused.value) and "\n" not in str(refused.value)


def test_a_hub_that_is_not_there_is_one_clear_line(folder, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the model cannot be pushed"):
        upload(folder, "me/model", private=False, message="GO")


def test_a_run_that_is_not_go_pushes_nothing(built, monkeypatch):
    built.ask_for(99)
    outcome = built.doit("push", "me/model")
    assert outcome.code == 10 and outcome.text.rstrip().endswith("NO-GO: nothing pushed"), outcome


@pytest.mark.parametrize("name", ["model", "me/model/x", "me/", "../model"])
def test_what_is_no_repository_is_refused(built, name):
    outcome = built.doit("push", name)
    assert outcome.code == 2 and "expected OWNER/NAME" in outcome.text, outcome


def test_a_dry_run_sends_nothing(built, monkeypatch):
    def nobody(*_, **__):
        raise AssertionError("sent")

    def written(project, verdicts, target, dtype):
        target.mkdir(parents=True)
        (target / "README.md").write_text("# a model\n")

    monkeypatch.setattr(commands_push, "upload", nobody)
    monkeypatch.setattr(commands_push, "write_export", written)
    outcome = built.doit("push", "me/model", "-n")
    assert outcome.code == 0 and "would push 1 files, 10 bytes, to me/model" in outcome.text, outcome
    assert not (built.root / ".staging" / "push").exists()
