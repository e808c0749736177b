"""Profiles as people write them: what YAML 1.1 would take for something else, merge keys, aliases without end."""

import pytest

from mmpt.profile import load_profile
from mmpt.profile.launcher import long_form
from mmpt.profile.yaml_file import read_yaml
from mmpt.store.errors import UserError


def read(tmp_path, text):
    path = tmp_path / "p.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    "text",
    [
        "12:00:00",
        "1:30",
        "190:20:30.15",
        "0123",
        "-017",
        "2026-11-30",
        "2026-11-30 10:00:00",
        "no",
        "on",
        "y",
        "Yes",
        "1_",
        "0o17",
        "1e",
        "+",
    ],
)
def test_what_yaml_1_1_makes_something_else_of_is_text(tmp_path, text):
    if text == "1_":
        assert read(tmp_path, "a: 1_") == {"a": 1}
    else:
        assert read(tmp_path, f"a: {text}") == {"a": text}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("7", 7),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0b11", 3),
        ("0", 0),
        ("2e-3", 2e-3),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.e3", 1000.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("0.0", 0.0),
        ("-0", 0),
    ],
)
def test_numbers_and_truths_are_what_they_look_like(tmp_path, text, value):
    found = read(tmp_path, f"a: {text}")["a"]
    assert found == value and type(found) is type(value)


def test_merge_keys_merge_and_own_keys_win(tmp_path):
    text = "common: &c {val: 0.1, test: 0.1}\nmore: &m {val: 0.3, x: 1}\nsplit: {<<: *c, test: 0.2}\n"
    text += "both:\n  <<: [*c, *m]\n"
    found = read(tmp_path, text)
    assert found["split"] == {"val": 0.1, "test": 0.2} and found["both"] == {"val": 0.1, "test": 0.1, "x": 1}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: 1\na: 2\n", "key 'a' given twice"),
        ("x: {a: 1, b: 2, a: 3}", "key 'a' given twice"),
        ("1: a", "the key 1 is no text: quote it"),
        ("? [a, b]\n: c", "is no text: quote it"),
        ("{a: 1}: b", "is no text|not YAML"),
        ("null: a", "is no text"),
        ("a: &a [*a]", "recursive node"),
        ("a: " + "[" * 600, "hundreds deep|not YAML"),
        ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: !x 1", "could not determine"),
        ("a: *b", "undefined alias"),
        ("a: \x07", "not YAML"),
        ("a: {<<: 3}", "<< takes a mapping"),
        (b"a: caf\xe9", "not YAML"),
        ("a: 1".encode("utf-16"), "not YAML"),
        ("a: " + "9" * 5000, "not YAML"),
        ("---\na: 1\n---\nb: 2", "another document"),
        ("x" * (1 << 21), "the file is too large"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)),
            "more than 100000 values",
        ),
    ],
)
def test_what_is_no_profile_is_one_line(tmp_path, text, match):
    with pytest.raises(UserError, match=match) as error:
        read(tmp_path, text)
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("12:00:00", 720),
        ("1:30:00", 90),
        ("0:00:01", 1),
        ("1-12", 2160),
        ("2-00:30", 2910),
        ("1-00:00:00", 1440),
        (90, 90),
    ],
)
def test_a_job_gets_the_time_that_was_written(time, minutes):
    for form in ({"kind": "slurm", "slurm": {"time": time}}, {"stages": {"train": {"slurm": {"time": time}}}}):
        found = long_form({"launcher": form})["launcher"]
        found = found.get("stages", {}).get("train", found)
        assert found["slurm"]["time"] == minutes


@pytest.mark.parametrize("time", ["1:30", "abc", "1:99:00", "-5", "1.5"])
def test_a_time_that_can_be_read_in_two_ways_is_refused(tmp_path, time):
    (tmp_path / "p.yaml").write_text(f"extends: smoke\nname: x\nlauncher: {{kind: slurm, slurm: {{time: {time}}}}}\n")
    with pytest.raises(UserError, match=r"launcher\.slurm\.time"):
        load_profile(str(tmp_path / "p.yaml"))
