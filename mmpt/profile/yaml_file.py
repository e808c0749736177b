"""A strict YAML reader: the core of YAML 1.2 and merge keys; no duplicate keys, and a limit on aliases.

PyYAML reads YAML 1.1, where 12:00:00 is 43,200, 1:30 is 90, 0123 is 83, 2026-11-30 a date and `no` false. Here
these are text, and a schema that wants a number says so. 2e-3, which YAML 1.1 calls text, is a number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from mmpt.store.errors import UserError

MOST_BYTES = 1 << 20  # of a profile; the packaged ones have 4 kB
MOST_VALUES, MOST_DEPTH = 100_000, 50  # aliases count each time: nine lines of them can stand for a billion values

_CORE = {
    "tag:yaml.org,2002:bool": "true|True|TRUE|false|False|FALSE",
    "tag:yaml.org,2002:int": r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)",
    "tag:yaml.org,2002:float": r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9_]+)(?:[eE][-+]?[0-9]+)?"
    r"|[0-9][0-9_]*[eE][-+]?[0-9]+)|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
}
_MERGE = "tag:yaml.org,2002:merge"
_DATES = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """A SafeLoader (it builds plain data only) with other rules for numbers, dates and mappings."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- the stubs of PyYAML declare it as an instance's
        first: [(tag, pattern) for tag, pattern in rules if tag not in (*_CORE, _DATES)]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag, _pattern in _CORE.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+0123456789.tTfF"))


def _mapping(loader: _Loader, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
    own = [(key, value) for key, value in node.value if key.tag != _MERGE]
    keys = [loader.construct_object(key, deep=True) for key, _ in own]
    twice = sorted({str(key) for key in keys if keys.count(key) > 1})
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} given twice", node.start_mark)
    if other := [key for key in keys if not isinstance(key, str)]:
        said = f"the key {str(other[0])[:40]} is no text: quote it"
        raise yaml.constructor.ConstructorError(None, None, said, node.start_mark)
    # Merge keys: what the mapping says itself goes over what it takes in, and of several the first.
    taken = [one for key, value in node.value if key.tag == _MERGE for one in _merged(value)]
    found: dict[str, Any] = {}
    for one in reversed(taken):
        found |= _mapping(loader, one, deep=True)
    return found | dict(zip(keys, (loader.construct_object(value, deep=True) for _, value in own), strict=True))


def _merged(value: yaml.Node) -> list[yaml.MappingNode]:
    nodes: list[Any] = value.value if isinstance(value, yaml.SequenceNode) else [value]
    if wrong := [one for one in nodes if not isinstance(one, yaml.MappingNode)]:
        said = "<< takes a mapping or a list of mappings"
        raise yaml.constructor.ConstructorError(None, None, said, wrong[0].start_mark)
    return nodes


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        UserError: not there or not YAML, with line and column; too large, too deep, or more than MOST_VALUES values.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            found = f"{path.stat().st_size} bytes"
            raise UserError("the file is too large", where=path, found=found, expected=f"at most {MOST_BYTES}")
        value = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError("cannot be read", where=path, found=error.strerror or error) from None
    except RecursionError:
        raise UserError("not a profile", where=path, found="lists or mappings in one another, hundreds deep") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:  # ValueError: a number of 5,000 digits
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        said = " ".join(str(getattr(error, "problem", None) or error).split())[:200]
        raise UserError("not YAML", where=place, found=said.removeprefix("but ").removeprefix("found ")) from None
    _check_size(value, path)
    return value


def _check_size(value: Any, path: Path) -> None:
    count, level = 0, [value]
    for _ in range(MOST_DEPTH):
        level = [one for held in level for one in _inside(held)]
        count += len(level)
        if not level:
            return
        if count > MOST_VALUES:
            break
    found = (
        f"more than {MOST_VALUES} values" if count > MOST_VALUES else "lists or mappings in one another, hundreds deep"
    )
    raise UserError("not a profile", where=path, found=found, expected="a mapping of keys")


def _inside(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
