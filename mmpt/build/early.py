"""Checks of stages that cost nothing, made by `doit plan` and before the first stage of a run.

Of texts the first MiB is read, of the base its config.json and, until stage token_space has taken it, its tokenizer's
files; media are never opened. What takes a model, a codec or all of a file is left to its stage.
"""

from __future__ import annotations

import filecmp
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmpt.build.project import Project
from mmpt.build.run_plan import with_inputs
from mmpt.launch.process_setup import resolve
from mmpt.store.compiled_modules import require_cache
from mmpt.store.model_files import check_positions, read_config
from mmpt.store.text_files import check_beginning

TEXTS = ("replay_file", "heldout_file")


def check_early(project: Project, names: Iterable[str] = (), *, single: bool = False) -> None:
    """Refuse what the named stages (none: all), and what they need, would find hours later.

    Raises:
        UserError: a text file that is not UTF-8; sequences longer than the base was made for; a tokenizer whose files
            disagree or that has no room for our ids; a cache of compiled modules that is empty and may not be written.
    """
    stages = set(names) if single else with_inputs(project, names or project.names)
    asked = {key for name in stages for key in project.names[name].external}
    text = project.profile.data.get("text", {})
    for key in TEXTS:
        if f"text.{key}" in asked and key in text and Path(text[key]).is_file():
            check_beginning(Path(text[key]), f"text.{key}: {Path(text[key]).name}")
    if any(
        "examples.max_seq_len" in project.names[name].slice and "base" in project.names[name].inputs for name in stages
    ):
        _check_positions(project.profile.data)
    for name in stages:
        if project.names[name].early:
            resolve(project.names[name].early)(project)


def check_cache(project: Project) -> None:
    """The cache of compiled modules, where nothing can be compiled into it."""
    require_cache()


def check_sources(project: Project, stages: Collection[str]) -> None:
    """Refuse what reading the sources would refuse, if a stage that does is among those to run; see `first_look`.

    Raises:
        UserError: as `first_look`.
    """
    corpus = project.profile.data.get("corpus", {})
    folders = project.profile.media_roots() if any(project.names[name].media for name in stages) else {}
    if folders:
        from mmpt.corpus.first_look import first_look  # numpy: only where there are captions to look at

        first_look(corpus["sources"], folders, corpus["on_bad_record"])


def check_tokenizer(project: Project) -> None:
    """The files of a folder's tokenizer, unless the stage took this very tokenizer.json before."""
    data = project.profile.data
    base = data["base"]
    file = Path(base.get("path", "")) / "tokenizer.json"
    if base["kind"] != "pretrained" or "gguf_file" in base or not file.is_file():
        return
    taken = project.root / "token_space" / "data" / "tokenizer" / "tokenizer.json"
    if taken.is_file() and filecmp.cmp(file, taken, shallow=False):
        return
    from mmpt.shards.tokenizer_ids import certain_names, check_tokenizer_ids

    rows = read_config(file.parent, "base.path").get("vocab_size")
    names = certain_names(data["token_space"]["n_special"], data["codecs"])
    check_tokenizer_ids(file.parent, "base.path", names, rows if type(rows) is int else None)


def _check_positions(data: Mapping[str, Any]) -> None:
    """A folder's config.json says how many positions it has; a hub id's is not here yet."""
    base = data.get("base", {})
    if base.get("kind") == "pretrained" and "gguf_file" not in base and Path(base["path"]).is_dir():
        check_positions(read_config(Path(base["path"]), "base.path"), data["examples"]["max_seq_len"])
