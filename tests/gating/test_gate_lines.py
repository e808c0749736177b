"""A gate's row: a GO that warns does not read like one that does not; of several misses the largest is shown."""

from __future__ import annotations

import pytest

from mmpt.gating.hints import typed
from mmpt.gating.text import gate_table, telling
from tests.gating.gate_evidence import fixture, judged

W1 = {"gate": "W1", "check": "gap", "severity": "warn", "reason": "a short warm-up"}


def gate(gate_id: str, *gates: dict, **values: float) -> dict:
    """The verdict on good evidence with some metrics set in every slice, as JSON."""
    evidence = fixture(gate_id, "good")
    for one in evidence["metrics"]:
        if one["name"] in values:
            one["value"] = values[one["name"]]
    return judged(gate_id, evidence, *gates).to_json()


def test_a_go_that_warns_says_so_in_its_row():
    (row, *_) = gate_table([gate("W1", W1, gap_swapped_nats=0.002)])
    assert row.startswith("W1  GO (warns)  gap [a2t]")
    (row, *_) = gate_table([gate("W1", W1)])
    assert row.startswith("W1  GO  ")


def test_the_row_shows_the_largest_relative_miss():
    """W1: a win rate of 0.79 misses 0.80 by 1 %, a gap of 0.01 misses 0.10 by 90 %."""
    assert telling(gate("W1", win_rate_swapped=0.79, gap_swapped_nats=0.01)["checks"])["id"] == "gap"
    assert telling(gate("W1", win_rate_swapped=0.10, gap_swapped_nats=0.09)["checks"])["id"] == "win_rate"
    assert telling(gate("W1", gap_swapped_nats=0.3)["checks"])["status"] == "pass"


@pytest.mark.parametrize(
    ("text", "command", "said"),
    [
        ("run `doit corpus` first", "doit profile=my.yaml", "run `doit corpus profile=my.yaml` first"),
        ("delete {run}/shards and run doit; if", "doit profile=x", "delete {run}/shards and run `doit profile=x`; if"),
        ("`doit` goes on", "mmpt profile=a.yaml", "`mmpt profile=a.yaml` goes on"),
        ("see `doit help STAGE`, or `doit -a train`", "mmpt", "see `mmpt help STAGE`, or `mmpt -a train`"),
        ("`doit help S3` and `doit diff A B`", "doit profile=x", "`doit help S3` and `doit diff A B`"),
        ("run `doit profile=trial`", "doit profile=x", "run `doit profile=trial`"),
        ("run doit in the clone", "mmpt profile=x", "run doit in the clone"),
        ("run `doit corpus`, then run doit", "doit", "run `doit corpus`, then run doit"),
    ],
)
def test_commands_in_messages_are_for_this_profile_and_program(text, command, said):
    assert typed(text, command) == said
    assert typed(said, command) == said, "once more changes nothing"


def test_a_count_of_faults_says_so():
    (row, *_) = gate_table([gate("A2", rows_not_in_optimizer=3.0)])
    assert row.split()[:6] == ["A2", "NO_GO", "rows_in_optimizer", "3", "wrong", "<="]
    (row, *_) = gate_table([gate("S3")])
    assert "wrong" not in row, "its nearest bound is no count"
