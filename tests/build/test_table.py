"""The table is sound, dodo.py's drawing is the table, and looking at either costs no torch."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mmpt.build.code import CodeIndex
from mmpt.build.declaration import Stage, by_name, check_table, measured_by
from mmpt.build.stage_table import BEFORE_RELEASE, STAGES
from mmpt.gating.policy import stated_gates
from mmpt.store.errors import UserError
from mmpt.store.schema import SCHEMAS

REPO = Path(__file__).resolve().parents[2]
TABLE = by_name(STAGES)
GATES = stated_gates()


def drawn() -> set[tuple[str, str, tuple[str, ...]]]:
    """The arrows of dodo.py's docstring: (from, to, gates)."""
    text = (REPO / "dodo.py").read_text().split('"""')[1]
    arrows = set()
    for line in text.splitlines():
        if not line.startswith("    "):
            continue
        parts = re.split(r"\s*-(?:([A-Z0-9 ]+)-)?>\s*", line.strip())
        names, gates = parts[::2], parts[1::2]
        for left, gate, right in zip(names[:-1], gates, names[1:], strict=True):
            arrows |= {
                (a.strip(), b.strip(), tuple((gate or "").split())) for a in left.split(",") for b in right.split(",")
            }
    return arrows


def real() -> set[tuple[str, str]]:
    measures = measured_by(STAGES)
    return {
        (name, stage.name) for stage in STAGES for name in (*stage.inputs, *(measures[gate] for gate in stage.needs))
    }


def test_every_drawn_arrow_is_in_the_table():
    measures = measured_by(STAGES)
    for left, right, gates in drawn():
        assert right in TABLE and left in TABLE
        if gates:
            assert {measures[gate] for gate in gates} == {left} and set(gates) <= set(TABLE[right].needs), (
                left,
                gates,
                right,
            )
        else:
            assert left in TABLE[right].inputs, (left, right)


def test_the_table_is_all_in_the_drawing():
    below: dict[str, set[str]] = {name: set() for name in TABLE}
    for stage in STAGES:  # inputs come first, so one pass closes the drawing under reachability
        for left, right, _ in drawn():
            if right == stage.name:
                below[right] |= {left} | below[left]
    missing = {(left, right) for left, right in real() if left not in below[right]}
    assert not missing
    assert {gate for _, _, gates in drawn() for gate in gates} == set(measured_by(STAGES))


def test_gates_of_table_and_policy_are_the_same():
    assert {gate: one.stage for gate, one in GATES.items()} == measured_by(STAGES)
    blocked = {gate for stage in STAGES if stage.name != "release" for gate in stage.needs}
    assert blocked == {gate for gate, one in GATES.items() if one.blocks == "train"}
    assert set(BEFORE_RELEASE) == set(GATES)


def test_every_schema_named_in_the_table_exists():
    named = {output.schema for stage in STAGES for output in stage.outputs if output.schema}
    assert {name for name in named if not (SCHEMAS / f"{name}.schema.json").exists()} == set()


def test_every_body_is_a_function_of_its_module():
    index = CodeIndex({"mmpt": REPO / "mmpt"})
    for stage in STAGES:
        index.closure(stage.body)  # refuses a module or a name that is not there


def test_evaluation_keys_are_not_in_the_slices_of_training():
    for name in ("warmup", "train"):
        assert not [
            key for key in TABLE[name].slice if key.split(".")[0] in ("evaluate", "generate", "golden", "gates")
        ]


def test_slices_name_keys_of_the_profile():
    import json

    schema = json.loads((SCHEMAS / "profile.schema.json").read_text())
    for stage in STAGES:
        for key in (*stage.slice, *stage.external):
            node = schema
            for part in key.split("."):
                assert part in node["properties"], (stage.name, key)
                node = node["properties"][part]


@pytest.mark.parametrize(
    "bad",
    [
        (Stage("a", "", "m:a", inputs=("b",)), Stage("b", "", "m:b")),
        (Stage("a", "", "m:a"), Stage("a", "", "m:a")),
        (Stage("a", "", "m:a", needs=("S1",), measures=("S1",)),),
        (Stage("a", "", "m:a", measures=("S1",)), Stage("b", "", "m:b", measures=("S1",))),
    ],
)
def test_a_table_that_cannot_be_built_is_refused(bad):
    with pytest.raises(UserError):
        check_table(bad)


def test_the_table_is_accepted_and_an_input_taken_out_is_not():
    check_table(STAGES)
    with pytest.raises(UserError, match="warmup_check"):
        check_table(tuple(replace(one, name="renamed") if one.name == "warmup" else one for one in STAGES))


def test_no_torch_numpy_or_scipy_is_imported_by_the_build():
    code = (
        "import sys, mmpt.build.commands, mmpt.build.stage_table, mmpt.build.runner\n"
        "heavy = {'torch', 'transformers', 'peft', 'numpy', 'scipy', 'rich', 'jinja2'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
