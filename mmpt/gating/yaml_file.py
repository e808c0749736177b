"""Reading the YAML files of gates/."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml

from mmpt.store.errors import UserError

_FASTEST: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml where it was built in: 8 times as fast


class _PlainLoader(_FASTEST):
    """A safe loader without timestamps: dates stay text, so that a schema can check them. A key given twice is
    refused: of two statements of one check the last would win, whatever the first one says.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _mapping(loader: _PlainLoader, node: yaml.MappingNode, deep: bool = False) -> dict[str, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        name = loader.construct_object(key, deep=deep)
        if name in seen:
            raise yaml.constructor.ConstructorError(None, None, f"{name!r} is stated twice", key.start_mark)
        seen.add(name)
    return loader.construct_mapping(node, deep)


_PlainLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def read_yaml(path: Path) -> Any:
    """Parse one YAML file.

    Raises:
        UserError: missing or not YAML, with line and column.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except FileNotFoundError:
        raise UserError("no such file", where=path) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else path
        raise UserError("not YAML", where=where, found=getattr(error, "problem", error)) from None
