"""The compiled validator and jsonschema read the same schemas alike, and jsonschema only looks at what is not fine."""

import json
import math
import random
import re

import pytest
from jsonschema import Draft202012Validator

from mmpt.store import schema as store
from mmpt.store.errors import UserError
from mmpt.store.jsonl import write_jsonl
from mmpt.store.schema import SCHEMAS, SchemaError, accepted, compiled, validate, validate_file, validator

NAMES = sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json"))
TEXTS = (
    "a",
    "0" * 64,
    "A1",
    "GO",
    "step_1",
    "2026-01-02",
    "code:x",
    "a.b:c",
    "x" * 20,
    "",
    "https://in-toto.io/Statement/v1",
)
STRANGE = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7,
    1.0,
    0.5,
    -0.25,
    10**20,
    1e300,
    "",
    "x",
    "é",
    "😀",
    "0" * 64,
    "F" * 64,
    [],
    {},
    [None, None],
    [1, 1.0],
    {"unknown": 1},
    "train",
    "A1",
)


def resolve(schema, root):
    while isinstance(schema, dict) and "$ref" in schema:
        found = root
        for part in schema["$ref"].removeprefix("#").strip("/").split("/"):
            found = found[part] if part else found
        schema = found
    return schema


def holds(value, schema, root):
    return Draft202012Validator({**schema, "$defs": root.get("$defs", {})}).is_valid(value)


def made(schema, root, rng, depth=0):
    """A value that a schema allows, as far as its keywords say one by one."""
    schema = resolve(schema, root)
    if schema is True or not schema:
        return rng.choice([1, "x", None, {"y": []}])
    for key in ("const", "enum"):
        if key in schema:
            return schema["const"] if key == "const" else rng.choice(schema["enum"])
    branches = schema.get("oneOf") or schema.get("anyOf")
    kinds = schema.get("type", "object" if "properties" in schema or not branches else None)
    kind = rng.choice(kinds) if isinstance(kinds, list) else kinds
    value = plain(kind, schema, root, rng, depth) if kind else None
    parts = [rng.choice(branches)] if branches else []
    for one in schema.get("allOf", []):
        parts += [one["then"]] if "if" in one and holds(value, one["if"], root) and "then" in one else []
        parts += [one] if "if" not in one else []
    for part in parts:
        more = made(part, root, rng, depth + 1)
        value = {**value, **more} if isinstance(value, dict) and isinstance(more, dict) else more
    return value


def plain(kind, schema, root, rng, depth):
    if kind == "object":
        needed, known = schema.get("required", []), schema.get("properties", {})
        keys = [key for key in known if key in needed or (depth < 5 and rng.random() < 0.5)]
        value = {key: made(known[key], root, rng, depth + 1) for key in keys}
        more = schema.get("additionalProperties", False)
        for key in set(needed) - set(known):
            fit = [part for text, part in schema.get("patternProperties", {}).items() if re.search(text, key)]
            value[key] = made(fit[0] if fit else more, root, rng, depth + 1)
        least = schema.get("minProperties", 0)
        names = resolve(schema.get("propertyNames", {}), root)
        for number in range(rng.randint(least, max(least, 2)) if more is not False else 0):
            name = made({"type": "string", **names}, root, rng) if names else f"key {number}"
            value[name] = made(more, root, rng, depth + 1)
        return value
    if kind == "array":
        least = schema.get("minItems", 0)
        count = rng.randint(least, schema.get("maxItems", max(least, 2 if depth < 5 else 0)))
        return [made(schema.get("items", True), root, rng, depth + 1) for _ in range(count)]
    if kind == "string":
        fit = [text for text in TEXTS if re.search(schema.get("pattern", ""), text)]
        return rng.choice([text for text in fit if len(text) >= schema.get("minLength", 0)] or [""])
    if kind in ("integer", "number"):
        least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        value = min(least + rng.randint(0, 3), schema.get("maximum", math.inf))
        return value if kind == "integer" or rng.random() < 0.5 else float(value)
    return {"boolean": rng.random() < 0.5, "null": None}[kind]


def places(value, path=()):
    """Every path into a value."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


def mutated(value, rng):
    """The value with one thing changed: a value, a key that goes, a key or an item that comes."""
    value = json.loads(json.dumps(value))
    path = rng.choice(list(places(value)))
    if not path:
        return rng.choice(STRANGE)
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind = rng.choice(["replace", "replace", "remove", "add"])
    if kind == "replace":
        parent[path[-1]] = rng.choice(STRANGE)
    elif kind == "remove":
        del parent[path[-1]]
    elif isinstance(parent, dict):
        parent[rng.choice(["unknown", "A1", "0" * 64, ""])] = rng.choice(STRANGE)
    else:
        parent.append(rng.choice([*STRANGE, parent[path[-1]]]))
    return value


@pytest.mark.parametrize("name", NAMES)
def test_both_validators_give_the_same_verdict(name):
    rng, root = random.Random(name), json.loads((SCHEMAS / f"{name}.schema.json").read_bytes())
    good = [value for value in (made(root, root, rng) for _ in range(60)) if validator(name).is_valid(value)]
    assert good, "no value that holds the schema was made"
    bad = 0
    for value in [*good[:20], *(mutated(rng.choice(good), rng) for _ in range(200))]:
        verdict = validator(name).is_valid(value)
        bad += not verdict
        assert compiled(name).is_valid(value) == verdict, value
    assert bad > 20


def test_no_schema_uses_what_the_compiled_validator_is_laxer_in():
    # 0.3 is no multiple of 0.1 to jsonschema; formats are not asserted by either.
    text = "".join(path.read_text() for path in SCHEMAS.glob("*.json"))
    assert not re.search(r'"(multipleOf|format|\$dynamicRef|contentSchema)":', text)


@pytest.mark.parametrize("gate", ["B3\n", "B3"])
@pytest.mark.parametrize("value", [math.nan, 1.0])
def test_where_the_compiled_validator_is_stricter_jsonschema_decides(gate, value):
    # Python's $ also matches before a last newline, and its json reads NaN.
    metric = {"name": "x", "value": value, "n": 1, "unit": "", "direction": "none", "ci_low": None, "ci_high": None}
    evidence = {"schema": "evidence/1", "gate": gate, "subject": {}, "metrics": [{**metric, "slice": ""}]}
    evidence |= {"samples": [], "controls": [], "notes": []}
    assert accepted(evidence, "evidence") == (gate == "B3" and value == 1.0)
    validate(evidence, "evidence", where="e.json")


def test_half_a_surrogate_pair_is_judged_by_jsonschema():
    with pytest.raises(ValueError):
        compiled("record").is_valid("\ud83d")
    with pytest.raises(SchemaError, match="top level: found .* expected object"):
        validate("\ud83d", "record", where="r.json")


ROW = {"id": "a", "modality": "audio", "split": "train", "unit": "u", "decided_by": "hash"}


def test_jsonschema_looks_at_bad_lines_alone_and_a_schema_is_read_once(tmp_path, monkeypatch):
    looked, opened, read = [], [], store.SCHEMAS.__class__.read_bytes
    kept = store.violations
    monkeypatch.setattr(
        store, "violations", lambda row, name, prefix="": looked.append(prefix) or kept(row, name, prefix)
    )
    monkeypatch.setattr(type(SCHEMAS), "read_bytes", lambda path: opened.append(path.name) or read(path))
    for cache in (store.schema, store.validator, store.compiled):
        cache.cache_clear()
    rows = [ROW] * 500
    write_jsonl(tmp_path / "good.jsonl", rows)
    validate_file(tmp_path / "good.jsonl", "split_record")
    assert looked == []
    write_jsonl(tmp_path / "bad.jsonl", [*rows, ROW | {"unit": 1}, ROW, ROW | {"split": "all"}])
    with pytest.raises(SchemaError, match="line 501 unit: found 1; expected string"):
        validate_file(tmp_path / "bad.jsonl", "split_record")
    assert looked == ["line 501 ", "line 503 "] and opened == ["split_record.schema.json"]


def test_a_file_of_bad_lines_is_not_read_to_its_end(tmp_path):
    write_jsonl(tmp_path / "bad.jsonl", [ROW | {"unit": number} for number in range(1500)])
    (tmp_path / "bad.jsonl").open("a").write("not JSON\n")
    with pytest.raises(SchemaError, match=r"at least 1000 schema errors:\n  line 1 unit: found 0") as caught:
        validate_file(tmp_path / "bad.jsonl", "split_record")
    assert str(caught.value).endswith("and at least 980 more")
    write_jsonl(tmp_path / "bad.jsonl", [ROW | {"unit": number} for number in range(30)])
    (tmp_path / "bad.jsonl").open("a").write("not JSON\n")
    with pytest.raises(UserError, match="bad.jsonl:31: not JSON"):
        validate_file(tmp_path / "bad.jsonl", "split_record")
