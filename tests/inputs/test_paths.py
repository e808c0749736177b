"""Paths as people type them, in options and in profiles: a home folder, links, files in the way, mount points."""

import errno
import os
from pathlib import Path

import pytest
import yaml

from mmpt.build import console
from mmpt.build.commandline import guarded, user_path
from mmpt.profile import load_profile
from mmpt.store.errors import UserError
from mmpt.store.new_folder import new_folder


@pytest.fixture
def place(tmp_path):
    """What may lie where outputs shall go, and the folder of a run."""
    (tmp_path / "run" / "train" / "data").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "nowhere").symlink_to(tmp_path / "made")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "goes_to"),
    [
        ("new", "new"),
        ("new/", "new"),
        ("with space/and $HOME", "with space/and $HOME"),
        ("deep/er/x", "deep/er/x"),
        ("empty", "empty"),
        ("link", "empty"),
        ("nowhere", "made"),
        ("run/../new", "new"),
        ("run/evaluate/mine", "run/evaluate/mine"),
        ("n" * 250, "n" * 250),
    ],
)
def test_a_new_or_empty_folder_is_taken_and_links_are_followed(place, text, goes_to):
    assert new_folder(f"{place}/{text}", "--to", place / "run") == place / goes_to


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file", "there is something already; found a file; expected a new or empty folder; name another"),
        (".", "there is something already; found a folder with .* in it"),
        ("circle", "there is something already|Too many levels"),
        ("file/x", "no folder can be made there; found .*file is a file"),
        ("n" * 253, "no folder can be made there; found File name too long"),
        ("n" * 300 + "/x", "no folder can be made there; found File name too long"),
        ("run/train/data/x", "the folder belongs to the build; expected one outside of"),
        ("empty/../run/new", "the folder belongs to the build"),
    ],
)
def test_what_is_in_the_way_of_a_folder_is_one_line(place, text, match):
    with pytest.raises(UserError, match=match) as error:
        new_folder(f"{place}/{text}", "--to", place / "run")
    assert str(error.value).startswith(f"--to {place}/") and "\n" not in str(error.value)


def test_a_mount_point_and_a_read_only_folder_are_said(place, monkeypatch):
    """An empty volume of a container; root may write anywhere, so the answer of the system call is put in."""
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == place / "empty")
    with pytest.raises(UserError, match="a mount point cannot be replaced; .* name one in it: .*/empty/out"):
        new_folder(place / "empty", "--to", place / "run")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)
    with pytest.raises(UserError, match="may not be written"):
        new_folder(place / "new", "--to", place / "run")


@pytest.mark.parametrize("code", [errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES])
def test_a_path_that_a_command_cannot_open_is_one_line(capsys, code):
    def fails():
        raise OSError(code, os.strerror(code), "some/file")

    assert guarded(fails)[0] == 2 and capsys.readouterr().err == f"doit: some/file: {os.strerror(code)}\n"


def test_a_home_folder_is_put_in_where_no_shell_does(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/out") == "/home/me/out" and user_path("out~") == "out~"
    with pytest.raises(Exception, match="no such home folder"):
        user_path("~nobody-of-this-name/x")
    assert console._here("~nobody/x") == "~nobody/x" and console._here("a b") == f"{os.getcwd()}/a b"


def profile(folder, **sections):
    (folder / "run.yaml").write_text(yaml.safe_dump({"extends": "captions", "name": "x", **sections}))
    return str(folder / "run.yaml")


def source(path):
    return {"sources": [{"name": "mine", "reader": "captions", "path": path}]}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~/data", "{home}/data"),
        ("data", "{here}/data"),
        ("./data/", "{here}/data"),
        ("../x y", "{up}/x y"),
        ("/abs/data", "/abs/data"),
        ("~nobody-of-this-name/x", "{here}/~nobody-of-this-name/x"),
        ("$HOME/data", "{here}/$HOME/data"),
        ("circle", "{here}/circle"),
    ],
)
def test_a_path_of_a_profile_counts_from_its_file(tmp_path, monkeypatch, text, meant):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    meant = meant.format(home=tmp_path / "home", here=tmp_path, up=tmp_path.parent)
    found = load_profile(profile(tmp_path, corpus=source(text)))
    assert found.media_roots() == {"mine": Path(meant)}


@pytest.mark.parametrize("text", ["x" * 5000, "x" * 300 + "/y.yaml", "a\0b", "", "~nobody-of-this-name/x.yaml"])
def test_a_profile_under_a_name_that_no_file_can_have_is_missing(tmp_path, text):
    for asked in (text, profile(tmp_path, corpus=source("data"), extends=text)):
        with pytest.raises(UserError, match="no such profile"):
            load_profile(asked)


def test_a_source_under_a_name_that_no_folder_can_have(tmp_path):
    with pytest.raises(UserError, match=r"run.yaml: not a path; found 'a.x00b'"):
        load_profile(profile(tmp_path, corpus=source("a\0b")))
    assert load_profile(profile(tmp_path, corpus=source("x" * 5000))).media_roots()["mine"].name == "x" * 5000


def test_a_profile_is_found_below_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    profile(tmp_path, corpus=source("data"))
    (tmp_path / "more.yaml").write_text("{extends: ~/run.yaml, name: y}")
    assert load_profile("~/run.yaml").name == "x" and load_profile("~/more.yaml").name == "y"
