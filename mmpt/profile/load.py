"""From a packaged name or a path to a checked profile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpt.profile.launcher import check_launcher, long_form
from mmpt.profile.rules import check_numbers, check_rules
from mmpt.profile.yaml_file import read_yaml
from mmpt.store.canonical import digest_json
from mmpt.store.errors import UserError
from mmpt.store.schema import SchemaError, nearest, validate

PACKAGED = Path(__file__).resolve().parent / "packaged"
MANY = 5  # sections that a profile lacks where `extends` was forgotten rather than one of them


@dataclass(frozen=True)
class Profile:
    """A checked profile.

    Args:
        data: every key with its value, inherited ones included; the schema is profile.schema.json.
        path: the file it was read from; relative paths inside ``data`` were made absolute against its folder.
    """

    data: Mapping[str, Any]
    path: Path

    @property
    def name(self) -> str:
        """Name of the run: its folder below artifacts/."""
        return self.data["name"]

    @property
    def digest(self) -> str:
        """SHA-256 of the whole profile."""
        return digest_json(dict(self.data))

    def media_roots(self) -> dict[str, Path]:
        """Corpus source name -> absolute folder, for the sources that read from one."""
        if "inputs" in self.data:  # nothing is read from media; sources may be left over from an inherited profile
            return {}
        return {source["name"]: Path(source["path"]) for source in self.data["corpus"]["sources"] if "path" in source}

    def codec_files(self, key: str) -> dict[str, Path]:
        """Files and folders that one codec's section names, by their own key: `path`, and its path options.

        Args:
            key: "codecs.audio.path" or "codecs.image.path".
        """
        modality = key.split(".")[1]
        section = self.data.get("codecs", {}).get(modality) or {}
        return {f"codecs.{modality}.{name}": Path(owner[last]) for name, owner, last in _codec_owners(section)}

    def input_paths(self, key: str) -> dict[str, Path]:
        """Files and folders that `inputs` names at ``key`` or below it, by their own key; those that exist."""
        found = {f"inputs.{name}": Path(owner[last]) for name, owner, last in input_owners(self.data)}
        if key == "inputs.token_space" and key in found:
            # Beside the file; where the folder is named, it is in there and counts already.
            found["inputs.token_space.sha256"] = found[key].with_name("token_space.sha256")
        return {name: path for name, path in found.items() if (name + ".").startswith(key + ".") and path.exists()}


def load_profile(name_or_path: str) -> Profile:
    """Read, inherit (``extends:``) and check a profile.

    Raises:
        UserError: no such profile (with the nearest name), bad YAML, no name of its own, a number that JSON does not
            carry, every schema violation, a rule between keys broken.
    """
    path = _locate(name_or_path)
    data = _without_nothing(long_form(_inherit(path, ())))
    check_numbers(data, path)
    try:
        validate(data, "profile", where=path)
    except SchemaError as error:
        lacking = next((line for line in error.lines if line.startswith("top level: missing ")), "")
        if "extends" in _read(path) or lacking.count(",") < MANY:
            raise
        raise UserError(
            "the profile has no `extends`, and so would have to state every key",
            where=path,
            found=lacking.removeprefix("top level: "),
            fix="begin it with `extends: smoke`, captions, trial or a profile of your own",
        ) from None
    data = _for_tasks(data)
    check_rules(data, path)
    check_launcher(data, path)
    return Profile(data, path)


def stated_name(path: Path) -> str:
    """The ``name`` that a profile file states; empty where it states none.

    Raises:
        UserError: it cannot be read as YAML.
    """
    return str(_read(path).get("name", ""))


def _locate(name_or_path: str) -> Path:
    packaged = PACKAGED / f"{name_or_path}.yaml"
    if os.path.isfile(packaged):  # False, where Path.is_file raises, for a name that no file can have
        return packaged
    path = Path(os.path.expanduser(name_or_path))  # no shell does it in profile=~/run.yaml
    if os.path.isfile(path):
        return path.resolve()
    if path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        raise UserError("no such profile file", where=name_or_path)
    names = sorted(one.stem for one in PACKAGED.glob("*.yaml"))
    raise UserError(
        "no such profile",
        where=f"profile={name_or_path}",
        expected="a path to a .yaml file or a packaged name",
        fix=nearest(name_or_path, names),
    )


def extended(path: Path, parent: str) -> Path:
    """The file that `extends: parent` of the profile `path` names: one in its folder, else a packaged or given one."""
    beside = path.parent / os.path.expanduser(parent)
    return beside.resolve() if os.path.isfile(beside) else _locate(parent)


def _inherit(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    """The file's own keys over those of the profile it extends; mappings merge, everything else replaces, and so
    does a mapping whose ``name`` is another. ``gates`` is not inherited: what one run excuses, another one has to
    excuse for itself.
    """
    if path in seen:
        raise UserError("profiles extend each other in a circle", where=path, found=" -> ".join(map(str, seen)))
    data = _read(path)
    for owner, key in path_owners(data):
        _absolute(owner, key, path)
    for _, owner, key in input_owners(data):  # files always, never a hub id
        owner[key] = str(_resolved(path, owner[key]))
    parent = data.pop("extends", None)
    if parent is None:
        return data
    if not isinstance(parent, str):
        raise UserError("bad value", where=f"{path}: extends", found=repr(parent), expected="a profile name or path")
    below = _inherit(extended(path, parent), (*seen, path))
    below.pop("gates", None)
    if "name" not in data:  # it would inherit the name, and with it build over the other profile's artifacts
        raise UserError(
            "a profile that extends another needs a name of its own",
            where=path,
            found=f"extends: {parent}, no name",
            expected="name: .., the folder of its run below artifacts/",
        )
    return _merge(below, data)


def path_owners(data: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    """Every well-formed (mapping, key) of a profile that may name a file or folder; the schema is checked later."""
    corpus, codecs = data.get("corpus"), data.get("codecs")
    sources = corpus.get("sources") if isinstance(corpus, dict) else None
    owners = [(one, "path") for one in sources] if isinstance(sources, list) else []
    sections = codecs.values() if isinstance(codecs, dict) else ()
    owners += [(owner, last) for one in sections for _, owner, last in _codec_owners(one)]
    evaluate = data.get("evaluate")
    judges = evaluate.get("scores") if isinstance(evaluate, dict) else None
    owners += [(one, "path") for one in judges.values()] if isinstance(judges, dict) else []
    owners += [
        (data.get("base"), "path"),
        (data.get("text"), "replay_file"),
        (data.get("text"), "heldout_file"),
        (data.get("token_space"), "expected"),
        (data, "store"),
    ]
    yield from ((one, key) for one, key in owners if isinstance(one, dict) and isinstance(one.get(key), str))


def is_path_key(key: object) -> bool:
    """Whether a key of a codec's section or of its `options` names a file or folder: `path`, `teacher_path`, .."""
    return key == "path" or str(key).endswith("_path")


def _codec_owners(section: Any) -> Iterator[tuple[str, Any, str]]:
    """(name, owner, key) of every path in a codec's section: owner[key] is the path."""
    options = section.get("options") if isinstance(section, dict) else None
    for prefix, owner in (("", section), ("options.", options)):
        if not isinstance(owner, dict):
            continue
        for key, value in owner.items():
            if is_path_key(key) and isinstance(value, str):
                yield f"{prefix}{key}", owner, key


def input_owners(data: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """(name, owner, key) of every path in section `inputs`: owner[key] is the path. Well-formed ones only."""
    inputs = data.get("inputs")
    if not isinstance(inputs, dict):
        return
    stage4, jsonl, shards = (inputs.get(key) for key in ("stage4", "jsonl", "shards"))
    found: list[tuple[str, Any, Any]] = [(key, inputs, key) for key in ("uti", "token_space", "stage3")]
    if isinstance(stage4, dict):
        found += [(f"stage4.{key}", stage4, key) for key in ("rows", "lora")]
    if isinstance(shards, list):
        found += [(f"shards.{one.get('name')}", one, "path") for one in shards if isinstance(one, dict)]
    if isinstance(jsonl, dict):
        lists = [(side, paths) for side, paths in jsonl.items() if isinstance(paths, list)]
        found += [(f"jsonl.{side}.{at}", paths, at) for side, paths in lists for at in range(len(paths))]
    for name, owner, key in found:
        if isinstance(owner[key] if isinstance(owner, list) else owner.get(key), str):
            yield name, owner, key


def _absolute(owner: dict[str, Any], key: str, file: Path) -> None:
    """Make a path absolute if it starts with . or ~, exists, or names a corpus folder or text; a hub id stays."""
    candidate = _resolved(file, owner[key])
    if owner[key].startswith((".", "~")) or os.path.exists(candidate) or "reader" in owner or not is_path_key(key):
        owner[key] = str(candidate)


def _resolved(file: Path, text: str) -> Path:
    """A path of a profile file, from the file's folder; ~nobody stays as it is and is found to be missing.

    Raises:
        UserError: a NUL in it.
    """
    if "\0" in text:
        raise UserError("not a path", where=file, found=repr(text)[:80], expected="a path without U+0000")
    return Path(os.path.realpath(file.parent / os.path.expanduser(text)))


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        # A section that names another thing (codec) starts anew: the one below's options are not its own.
        renamed = both and "name" in value and value["name"] != merged[key].get("name")
        # A launcher that names its kind says who runs every stage: stages below it are not inherited.
        whole = key == "launcher" and both and "kind" in value
        merged[key] = _merge(merged[key], value) if both and not renamed and not whole else value
    return merged


def _without_nothing(data: dict[str, Any]) -> dict[str, Any]:
    """Without a codec that the profile sets to null: it takes away what it inherited, and the run has no such
    modality.
    """
    codecs = data.get("codecs")
    if not isinstance(codecs, dict):
        return data
    return {**data, "codecs": {name: one for name, one in codecs.items() if one is not None}}


def _for_tasks(data: dict[str, Any]) -> dict[str, Any]:
    """With ``tasks``, the others have no weight: a profile that wants two tasks inherits four weights."""
    if "tasks" not in data:
        return data
    mixture = data["mixture"]
    weights = {task: weight if task in data["tasks"] else 0 for task, weight in mixture["weights"].items()}
    return {**data, "mixture": {**mixture, "weights": weights}}


def _read(path: Path) -> dict[str, Any]:
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise UserError("not a profile", where=path, found=type(data).__name__, expected="a mapping of keys")
    return data
