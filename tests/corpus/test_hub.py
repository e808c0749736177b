"""Data sets by hub id: downloaded from a server that answers as the hub does, once and whole, or one clear line."""

import http.server
import json
import threading
from typing import ClassVar

import pytest
from huggingface_hub import constants

from mmpt.corpus.hub import fetch_sources
from mmpt.profile import load_profile
from mmpt.profile.missing import missing
from mmpt.store.errors import UserError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"data/train-00000-of-00001.parquet": b"PAR1 rows", "data/x.bin": b"no", "README.md": b"# a set"}


class Hub(http.server.BaseHTTPRequestHandler):
    """One data set, o/birds."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        type(self).asked.append(self.path)
        place = self.path.split("?")[0]
        if place.startswith("/api/datasets/o/birds/tree/"):
            rows = [{"type": "file", "path": p, "size": len(d), "oid": "0" * 40} for p, d in FILES.items()]
            return self._answer(json.dumps(rows).encode())
        if place in (
            "/api/datasets/o/birds",
            f"/api/datasets/o/birds/revision/{COMMIT}",
            "/api/datasets/o/birds/revision/main",
        ):
            return self._answer(json.dumps({"id": "o/birds", "sha": COMMIT, "siblings": []}).encode())
        path = place.removeprefix(f"/datasets/o/birds/resolve/{COMMIT}/")
        if path in FILES:
            return self._answer(FILES[path])
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def _answer(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", '"0123"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *words):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub
    server.shutdown()
    server.server_close()


def source(folder, **more):
    return {"name": "s", "reader": "parquet", "path": str(folder), "hub": "o/birds", **more}


def test_a_data_set_is_downloaded_once(tmp_path, hub):
    (line,) = fetch_sources([source(tmp_path / "birds")])
    assert line == f"o/birds at {COMMIT} is in {tmp_path / 'birds'}"
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {"birds/data/train-00000-of-00001.parquet"}
    hub.asked.clear()
    assert fetch_sources([source(tmp_path / "birds")]) == [] and not hub.asked


def test_what_an_interrupted_download_of_another_commit_left_is_not_mixed_in_and_goes(tmp_path, hub):
    older, kept = f"birds.{COMMIT[::-1]}.partial", {"birds.partial", f"birds.v2.{COMMIT}.partial", "birds.0123.partial"}
    for name in (older, *kept):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data/train-00001-of-00002.parquet").write_bytes(b"PAR1")
    fetch_sources([source(tmp_path / "birds")])
    assert [path.name for path in (tmp_path / "birds").rglob("*.parquet")] == ["train-00000-of-00001.parquet"]
    assert {path.name for path in tmp_path.iterdir()} == {"birds", *kept}


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({"hub": "o/none"}, "the data set cannot be downloaded; found o/none .* or copy its files to"),
        ({"file": "test-*.parquet"}, r"holds none of the reader's files; .* revision: refs/convert/parquet"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(tmp_path, hub, more, match):
    with pytest.raises(UserError, match=match) as error:
        fetch_sources([source(tmp_path / "birds", **more)])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["switched off", "not reachable"])
def test_offline_is_one_line_and_half_a_download_is_no_data_set(tmp_path, hub, monkeypatch, how):
    partial = tmp_path / f"birds.{COMMIT}.partial/data"
    partial.mkdir(parents=True)
    (partial / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", how == "switched off")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="the data set cannot be downloaded; found o/birds") as error:
        fetch_sources([source(tmp_path / "birds")])
    assert "\n" not in str(error.value) and not (tmp_path / "birds").exists()


def test_the_plan_says_that_a_run_downloads_it(tmp_path):
    profile = tmp_path / "run.yaml"
    text = (
        "extends: smoke\nname: x\ncorpus:\n  on_bad_record: skip\n  sources:\n    - {name: s, path: d, hub: o/birds, "
    )
    profile.write_text(text + "reader: parquet, revision: v1}\n")
    lost = [str(one) for one in missing(load_profile(str(profile))) if "reader" not in one.key]
    assert lost == [
        f"corpus.sources.s.path: {tmp_path / 'd'} is not there (the folder of parquet or arrow files; the run "
        "downloads them from hub o/birds)"
    ]
    profile.write_text(text + "reader: table}\n")
    with pytest.raises(UserError, match="hub"):
        load_profile(str(profile))
