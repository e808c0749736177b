"""Files are whole or absent; equal content gives equal bytes."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mmpt.store.atomic import atomic_write, exchange, publish_folder
from mmpt.store.canonical import canonical_json, digest_json, read_json, write_json
from mmpt.store.errors import Blocked, UserError
from mmpt.store.jsonl import read_jsonl, write_jsonl
from mmpt.store.lock import exclusive
from mmpt.store.tensors import load_tensors, read_meta


def test_canonical_json_has_one_spelling():
    assert canonical_json({"b": 1, "a": [1.5, "ü"]}) == '{"a":[1.5,"ü"],"b":1}'.encode()
    assert digest_json({"a": 1, "b": 2}) == digest_json({"b": 2, "a": 1})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_not_a_number_is_never_written(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "x.json", {"v": value})
    assert list(tmp_path.iterdir()) == []


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        atomic_write(path, b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["x"]


def test_publish_replaces_a_whole_folder(tmp_path):
    for name, text in (("final", "old"), ("staging", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(text)
    publish_folder(tmp_path / "staging", tmp_path / "final")
    assert (tmp_path / "final" / "f").read_text() == "new" and os.listdir(tmp_path) == ["final"]


def test_jsonl_round_trip_and_bad_line_is_numbered(tmp_path):
    rows = [{"id": "a", "n": 1}, {"id": "ü"}]
    write_jsonl(tmp_path / "r.jsonl", rows)
    assert read_jsonl(tmp_path / "r.jsonl") == rows
    (tmp_path / "bad.jsonl").write_text('{"a": 1}\n{"a":\n')
    with pytest.raises(UserError, match="bad.jsonl:2"):
        read_jsonl(tmp_path / "bad.jsonl")


def test_missing_and_broken_json_name_the_place(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "x.json").write_text('{"a": }')
    with pytest.raises(UserError, match="line 1 column 7"):
        read_json(tmp_path / "x.json")


def test_safetensors_bytes_do_not_depend_on_the_process(tmp_path):
    code = (
        "import sys, numpy; from mmpt.store.tensors import save_tensors;"
        "save_tensors(sys.argv[1], {'b': numpy.arange(3), 'a': numpy.ones(2)}, {'z': 1, 'y': [2], 'x': 'w'})"
    )
    for name in ("one", "two", "three"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True)
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1
    assert read_meta(tmp_path / "one") == {"z": 1, "y": [2], "x": "w"}
    assert np.array_equal(load_tensors(tmp_path / "one")["b"], np.arange(3))


@pytest.mark.parametrize("data", [b"", b"12", b"\xff" * 40, json.dumps({"a": 1}).encode()])
def test_what_is_not_safetensors_is_said_so(tmp_path, data):
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(UserError):
        read_meta(tmp_path / "x.safetensors")
    with pytest.raises(UserError):
        load_tensors(tmp_path / "x.safetensors")


def test_lock_names_its_holder_and_dies_with_it(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from mmpt.store.lock import exclusive\n"
        "with exclusive(Path(sys.argv[1]), 'doit train'): print('held', flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    owner.stdout.readline()
    with pytest.raises(UserError, match=f"process {owner.pid} .doit train."), exclusive(tmp_path / "lock", "me"):
        pass
    owner.kill()
    owner.wait()
    with exclusive(tmp_path / "lock", "me"):
        pass


def test_errors_cross_a_process_border():
    error = pickle.loads(pickle.dumps(UserError("bad", where="f.yaml", found=1, expected=2, fix="mend it")))
    assert str(error) == "f.yaml: bad; found 1; expected 2; mend it" and error.exit_code == 2
    blocked = pickle.loads(pickle.dumps(Blocked(["S3"], ["ids out of range"])))
    assert str(blocked) == "blocked by S3: ids out of range"


def folders(tmp_path):
    for name in ("final", "staging"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    return tmp_path / "staging", tmp_path / "final"


@pytest.mark.skipif(sys.platform != "linux", reason="renameat2 is Linux'")
def test_a_folder_is_never_absent_while_it_is_replaced(tmp_path, monkeypatch):
    staging, final = folders(tmp_path)
    monkeypatch.setattr(os, "rename", lambda *_: pytest.fail("two renames leave a moment without a folder"))
    publish_folder(staging, final)
    assert (final / "f").read_text() == "staging" and os.listdir(tmp_path) == ["final"]


def test_where_names_cannot_change_places_two_renames_do(tmp_path, monkeypatch):
    staging, final = folders(tmp_path)
    monkeypatch.setattr("mmpt.store.atomic.exchange", lambda *_: False)
    publish_folder(staging, final)
    assert (final / "f").read_text() == "staging" and os.listdir(tmp_path) == ["final"]


def test_exchange_of_what_is_not_there_is_an_error(tmp_path):
    (tmp_path / "one").mkdir()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "one", tmp_path / "other")
