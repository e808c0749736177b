"""A schema failure lists every violation with its path, what was found, and the nearest valid key."""

import math
import pickle

import pytest

from mmpt.store.evidence import Metric, read_evidence, write_evidence
from mmpt.store.jsonl import write_jsonl
from mmpt.store.schema import SchemaError, validate, validate_file
from mmpt.store.stage import SliceView

METRIC = {
    "name": "loss",
    "value": 1.0,
    "n": 3,
    "unit": "",
    "direction": "none",
    "ci_low": None,
    "ci_high": None,
    "slice": "",
}
EVIDENCE = {
    "schema": "evidence/1",
    "gate": "B3",
    "subject": {},
    "metrics": [METRIC],
    "samples": [],
    "controls": [],
    "notes": [],
}


def test_all_violations_are_listed():
    bad = EVIDENCE | {"gate": "b3", "metric": [], "metrics": [METRIC | {"n": "three"}]}
    del bad["notes"]
    with pytest.raises(SchemaError) as caught:
        validate(bad, "evidence", where="e.json")
    text = str(caught.value)
    assert len(caught.value.lines) == 4
    assert "unknown key 'metric'; did you mean 'metrics'?" in text
    assert 'metrics[0].n: found "three"; expected integer' in text
    assert "missing 'notes'" in text and "gate" in text
    assert str(pickle.loads(pickle.dumps(caught.value))) == text


def test_jsonl_errors_carry_the_line(tmp_path):
    write_jsonl(tmp_path / "e.jsonl", [EVIDENCE, EVIDENCE | {"gate": 3}])
    with pytest.raises(SchemaError, match="line 2 gate: found 3"):
        validate_file(tmp_path / "e.jsonl", "evidence")


def test_evidence_round_trip_keeps_what_is_not_a_number_as_null(tmp_path):
    path = write_evidence(
        tmp_path, "B2", [Metric("norm", math.nan, 3, ci_low=-math.inf, ci_high=1.0)], subject={"x": "0" * 64}
    )
    stored = read_evidence(path)["metrics"][0]
    assert stored["value"] is None and stored["ci_low"] is None and stored["ci_high"] == 1.0


def test_a_stage_cannot_read_outside_its_slice():
    view = SliceView({"train": {"steps": 3}, "seed": 1}, ("train", "missing"), "train")
    assert view["train.steps"] == 3 and view.get("missing", 7) == 7 and view.get("train.x") is None
    with pytest.raises(KeyError, match="outside its slice"):
        view["seed"]
    with pytest.raises(KeyError, match="outside its slice"):
        view.get("seed", 0)
