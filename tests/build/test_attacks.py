"""Attacks on a GO, each through the command line, with its exit codes.

On every gate's good evidence; the first twelve turned a run that was not good enough into a plain GO once.
"""

from __future__ import annotations

import json
import re

import pytest
import yaml

from tests.build.conftest import REPO
from tests.faults.catalogue import FAULTS


def profile(built, **changes) -> None:
    """Set sections of the profile; a mapping is merged into what is there."""
    path = built.folder / "smoke.yaml"
    body = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        body[key] = {**body[key], **value} if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(body, sort_keys=False))


def gates(*entries: dict):
    return lambda built: profile(built, gates=[{"reason": "because I can", **one} for one in entries])


def policy(gate: str, change):
    """An edit of policy.yaml; ``change`` gets the checks of one gate."""

    def edit(built) -> None:
        path = built.folder / "gates" / "policy.yaml"
        body = yaml.safe_load(path.read_text())
        change(body["gates"].get(gate, body["gates"]))
        path.write_text(yaml.safe_dump(body, sort_keys=False))

    return edit


def script(name: str, old: str, new: str):
    return lambda built: built.edit(f"gates/{name}", old, new)


def without_gates(built) -> None:
    policy("", lambda found: [found.pop(gate) for gate in ("S1", "A3", "C3", "Q1")])(built)


def waiver(**changes):
    """waivers.yaml written by hand."""
    entry = {"gate": "C3", "check": "nll", "slice": "", "subject": "a" * 64, "value": 0.1, "owner": "me"}
    entry |= {"reason": "it is a trial", "expires": "2026-01-01"} | changes
    body = json.dumps({"version": 1, "waivers": [entry]})
    return lambda built: (built.folder / "gates" / "waivers.yaml").write_text(body)


SOFTENED = "GO (softened: "
# name: (what is done, exit codes of `doit gates` and `doit gates --strict`, what the first one says)
ATTACKS = {
    "a blocking check made a warning": (
        gates({"gate": "B1", "check": "falls", "severity": "warn"}),
        (0, 10),
        SOFTENED + "B1.falls by smoke.yaml: because I can)",
    ),
    "half of the text bound's text": (
        gates({"gate": "C3", "check": "nll", "min_n": 100}),
        (0, 10),
        SOFTENED + "C3.nll by smoke.yaml",
    ),
    "a bound lowered in policy.yaml": (
        policy("C3", lambda gate: gate["nll"].update(threshold=9.0)),
        (0, 10),
        SOFTENED + "C3.nll by gates/policy.yaml",
    ),
    "a slice taken out of a script": (
        script("b4_artifacts.py", '"slices": ["t2a", "t2i"]', '"slices": ["t2a"]'),
        (0, 10),
        SOFTENED + "B4.missing, B4.unreadable",
    ),
    "emit tasks without a weight": (
        lambda built: profile(built, mixture={"weights": {"a2t": 1, "i2t": 1, "t2a": 0, "t2i": 0}}),
        (0, 10),
        "GO for a2t, i2t (softened: mixture.weights.t2a by smoke.yaml: task t2a is not trained",
    ),
    "prompt dropout just above zero": (
        lambda built: profile(built, mixture={"prompt_dropout": 1e-9}),
        (0, 10),
        SOFTENED + "B3.win_empty, B3.gap_empty",
    ),
    "gates deleted from policy.yaml": (without_gates, (20, 20), "CANNOT-DECIDE"),
    "one check deleted": (policy("A3", lambda gate: gate.pop("mask")), (20, 20), "CANNOT-DECIDE"),
    "a script deleted": (
        lambda built: (built.folder / "gates" / "q1_oracle.py").unlink(),
        (20, 20),
        "CANNOT-DECIDE",
    ),
    "label masks made information": (gates({"gate": "A3", "check": "mask", "severity": "info"}), (2, 2), "floor"),
    "eight groups may decide": (gates({"gate": "B3", "check": "groups", "threshold": 8}), (2, 2), "floor"),
    "twenty items may decide": (gates({"gate": "B3", "check": "win_swapped", "min_n": 20}), (2, 2), "floor"),
    "a win rate of 0": (gates({"gate": "B3", "check": "win_swapped", "threshold": 0}), (2, 2), "floor"),
    "a floor's interval as a warning": (
        gates({"gate": "R1", "check": "gap", "severity": "warn"}),
        (2, 2),
        "floor",
    ),
    "the oracle's mean at 0.5": (gates({"gate": "Q1", "check": "mean", "threshold": 0.5}), (2, 2), "floor"),
    "one check stated twice": (
        gates({"gate": "B1", "check": "falls", "threshold": 0.9}, {"gate": "B1", "check": "falls", "severity": "info"}),
        (2, 2),
        "a check is stated twice",
    ),
    "a reason without words": (
        gates({"gate": "B1", "check": "falls", "severity": "info", "reason": "        ........"}),
        (2, 2),
        "not a reason",
    ),
    "a waiver for ever": (waiver(expires="9999-12-31"), (2, 0), "a waiver that does not end soon"),
    "a waiver of dots": (waiver(reason="        ........"), (2, 0), "not a reason"),
    "a waiver for a floor": (waiver(gate="R1", check="gap"), (2, 0), "a gate with a floor cannot be waived"),
    "a waiver for any subject": (waiver(subject="*"), (2, 0), "subject"),
    "stale evidence": (lambda built: profile(built, count={"n": 5}), (20, 20), "CANNOT-DECIDE"),
    "nothing": (lambda built: None, (0, 0), "GO"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_in_no_plain_go(built, name):
    act, codes, said = ATTACKS[name]
    act(built)
    plain, strict = built.doit("gates"), built.doit("gates", "--strict")
    assert (plain.code, strict.code) == codes, (plain, strict)
    assert said in re.sub(r"\s+", " ", plain.text.splitlines()[-1]), plain
    assert (plain.text.splitlines()[-1] == "GO") == (name == "nothing")


def test_the_page_of_attacks_names_faults_checks_and_tests_that_exist():
    """Every fault with the check that its catalogue expects, and every test file."""
    page = (REPO / "gates" / "ATTACKS.md").read_text()
    expected = {fault.id: fault.expects for fault in FAULTS}
    mutations = page.partition("## Mutations of the code")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\|.*\|$", mutations, re.M)[2:]]
    assert len(rows) > 15
    for *_, faults, checks in rows:
        for fault, check in zip(faults.split("; "), checks.split("; "), strict=False):
            refused = check.startswith("refused") and ": " in expected.get(fault, "")
            assert fault == "the same" or refused or check == expected[fault], fault
    tests = {path.name for path in (REPO / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(?:[\w/]+/)?(test_\w+\.py)`", page)) <= tests
