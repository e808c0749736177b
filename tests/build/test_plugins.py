"""Codec plug-ins in fingerprints: the source of those that the profile names counts, that of others does not."""

import importlib
import sys
from pathlib import Path

import pytest
import yaml

from mmpt.build import plugins
from mmpt.build.code import CodeIndex
from mmpt.build.fingerprint import define, fingerprint
from mmpt.build.project import Project
from mmpt.build.stage_table import STAGES
from mmpt.profile import load_profile
from mmpt.store.errors import UserError

REPO = Path(__file__).resolve().parents[2]
CODEC = '''
"""A codec."""
from acme.tables import TABLE

class Plugin:
    modality = "audio"
    @staticmethod
    def create(options, fit_data):
        return TABLE
'''
CACHE: list[Path] = []
SECTION = {"name": "acme", "clip_seconds": 1.0}


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A site-packages folder with package `acme`, and a function that registers entry points."""
    folder = tmp_path / "site"
    (folder / "acme").mkdir(parents=True)
    (folder / "acme/__init__.py").write_text("")
    (folder / "acme/codec.py").write_text(CODEC)
    (folder / "acme/tables.py").write_text("TABLE = 1\n")
    (folder / "acme/unrelated.py").write_text("OTHER = 1\n")
    (folder / "acme/weights.bin").write_bytes(b"1")
    monkeypatch.syspath_prepend(str(folder))

    def register(**points):
        info = folder / "acme-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
        lines = "".join(f"{name} = {value}\n" for name, value in points.items())
        (info / "entry_points.txt").write_text(f"[mmpt.codecs]\n{lines}")
        importlib.invalidate_caches()
        plugins._found.cache_clear()
        return folder

    yield register
    plugins._found.cache_clear()
    for name in [one for one in sys.modules if one.partition(".")[0] == "acme"]:
        del sys.modules[name]


def profile(tmp_path, **audio):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"extends": "smoke", "name": "plugged", "codecs": {"audio": audio}}))
    return load_profile(str(path))


@pytest.fixture(scope="module", autouse=True)
def parsed_once(tmp_path_factory):
    """Our own source is parsed once for all tests of this file."""
    CACHE.append(tmp_path_factory.mktemp("code") / "code.json")


def definition(profile, stage="codecs"):
    project = Project(STAGES, profile, REPO)
    folders = plugins.folders(profile.data["codecs"])
    code = CodeIndex({"mmpt": REPO / "mmpt"}, REPO / "csrc", CACHE[0], folders)
    found = define(project, project.stage(stage), code)
    code.save()
    return found


def digest(profile, stage="codecs"):
    return fingerprint(definition(profile, stage))


@pytest.mark.parametrize("stage", ["codecs", "shards", "shard_audit", "preflight", "generate"])
def test_an_edit_of_a_named_plug_in_makes_every_stage_stale_that_opens_codecs(stage, site, tmp_path):
    folder, run = site(acme="acme.codec:Plugin"), profile(tmp_path, **SECTION)
    before = digest(run, stage)
    assert digest(run, stage) == before
    (folder / "acme/tables.py").write_text("TABLE = 2\n")  # not the module that the entry point names, one it imports
    assert digest(run, stage) != before


def test_what_cannot_change_a_result_of_the_plug_in_does_not_count(site, tmp_path):
    folder, run = site(acme="acme.codec:Plugin"), profile(tmp_path, **SECTION)
    before = digest(run)
    (folder / "acme/tables.py").write_text("# a comment\nTABLE = 1\n")
    (folder / "acme/unrelated.py").write_text("OTHER = 2\n")
    assert digest(run) == before
    (folder / "acme/weights.bin").write_bytes(b"2")
    assert digest(run) != before


def test_a_plug_in_that_the_profile_does_not_name_changes_nothing(site, tmp_path):
    run = profile(tmp_path, name="melrvq", clip_seconds=1.0)
    before = digest(run)
    folder = site(acme="acme.codec:Plugin")
    assert digest(run) == before
    (folder / "acme/tables.py").write_text("TABLE = 2\n")
    assert digest(run) == before and not any(name.startswith("codec ") for name in definition(run)["packages"])


def test_a_stage_that_opens_no_codec_does_not_know_the_plug_in(site, tmp_path):
    folder, run = site(acme="acme.codec:Plugin"), profile(tmp_path, **SECTION)
    before = digest(run, "corpus")
    (folder / "acme/tables.py").write_text("TABLE = 2\n")
    assert digest(run, "corpus") == before


def test_a_plug_in_that_is_a_single_module_counts_too(site, tmp_path):
    folder, run = site(acme="acme_alone:Plugin"), profile(tmp_path, **SECTION)
    (folder / "acme_alone.py").write_text(CODEC.replace("from acme.tables import TABLE", "TABLE = 1"))
    before = digest(run)
    (folder / "acme_alone.py").write_text(CODEC.replace("from acme.tables import TABLE", "TABLE = 2"))
    assert digest(run) != before


def test_files_that_options_name_are_resolved_and_count_by_content(site, tmp_path):
    site(acme="acme.codec:Plugin")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/a.bin").write_bytes(b"1")
    run = profile(tmp_path, **SECTION, options={"teacher_path": "./weights", "path": "./nowhere"})
    options = run.data["codecs"]["audio"]["options"]
    assert options["teacher_path"] == str(tmp_path / "weights")
    before = digest(run, "shard_audit")
    assert list(definition(run)["external"]) == ["codecs.audio.options.teacher_path"]
    (tmp_path / "weights/a.bin").write_bytes(b"2")
    assert digest(run, "shard_audit") != before
    from mmpt.profile.missing import missing

    assert [one.key for one in missing(run)] == ["codecs.audio.options.path"]


@pytest.mark.parametrize(
    ("name", "points", "message"),
    [
        ("acne", {"acme": "acme.codec:Plugin"}, "unknown audio codec.*acne.*did you mean 'acme'"),
        ("patchvq", {}, "patchvq is not an audio codec"),
        ("acme", {"acme": "acme.codec:Gone"}, "acme cannot be imported"),
    ],
)
def test_a_codec_that_cannot_be_used_is_refused_before_the_first_stage(name, points, message, site, tmp_path):
    site(**points)
    with pytest.raises(UserError, match=message):
        plugins.require_codecs(profile(tmp_path, name=name, clip_seconds=1.0).data)


def test_a_plug_in_of_the_other_modality_is_refused_before_the_first_stage(site):
    site(acme="acme.codec:Plugin")
    with pytest.raises(UserError, match="acme is not an image codec.*modality 'audio'"):
        plugins.require_codecs({"codecs": {"image": {"name": "acme"}}})


def test_rows_from_code_vectors_are_refused_before_the_first_stage_where_no_codec_offers_any(site):
    folder = site(acme="acme.codec:Plugin")
    run = {"codecs": {"audio": SECTION, "image": None}, "warmup": {"init": "codec"}}
    with pytest.raises(UserError, match="no codec of this profile offers code vectors.*code_vectors = True"):
        plugins.require_codecs(run)
    plugins.require_codecs({**run, "warmup": {"init": "random"}})
    plugins.require_codecs({**run, "codecs": {"audio": SECTION, "image": {"name": "patchvq"}}})
    (folder / "acme/codec.py").write_text(CODEC.replace("class Plugin:", "class Plugin:\n    code_vectors = True"))
    for name in [one for one in sys.modules if one.partition(".")[0] == "acme"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    plugins.require_codecs(run)
