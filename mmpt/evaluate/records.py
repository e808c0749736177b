"""What became of a run's records: which were left out, cut or shortened, and why; or everything about one.

Reads what the stages published, and nothing else: corpus and manifest (errors), split, codecs, shards, examples, and
the golden outputs of generate. A stage that was not built yet has nothing to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mmpt.codecs import registry
from mmpt.shards.example_set import ExampleSet
from mmpt.shards.examples import select
from mmpt.shards.shard_set import ShardSet
from mmpt.shards.text_set import open_tokenizer
from mmpt.store.errors import UserError
from mmpt.store.jsonl import count_lines, iter_jsonl
from mmpt.store.tasks import EMIT_TASKS, MODALITIES, MODALITY_OF, SPLITS, TASKS
from mmpt.tokens.formats import OVERHEAD
from mmpt.tokens.space import TokenSpace, load

WHY = {
    "too_long": "too long",
    "empty_target": "nothing to learn: an empty target",
    "empty_source": "an empty source",
}


class Records:
    """The records of one run.

    Args:
        max_seq_len, max_prompt: what its examples were built with (the profile may have changed since).
        stale: the examples are of other shards or another token space than those that are there: nothing of them is
            told, their rows mean other records.

    Raises:
        UserError: nothing of it was built yet.
    """

    def __init__(self, root: Path, max_seq_len: int, max_prompt: int | None, stale: bool = False):
        self.root, self.max_seq_len, self.max_prompt, self.stale = root, max_seq_len, max_prompt, stale
        if not any((root / name / "data").is_dir() for name in ("corpus", "shards")):
            raise UserError("no records yet", where=root.name, fix="run `doit corpus` first")

    def overview(self) -> dict[str, Any]:
        """{read, sides, unused, lost, cut, stale, tasks}; in `tasks` {kept, dropped, shortened} a task, the last two as
        lists of {id, split, why}; in `unused` the records of each modality that no codec was built for.
        """
        split = self._file("split", "split.jsonl")
        manifest = self._file("manifest", "manifest.jsonl") or split  # what was imported has no manifest
        dealt = Counter((row["modality"], row["split"]) for row in (iter_jsonl(split) if split else ()))
        kinds = {kind: sum(dealt[kind, side] for side in SPLITS) for kind in self._without_codec()}
        return {
            "read": count_lines(manifest) if manifest else 0,
            "sides": {side: sum(dealt[kind, side] for kind in MODALITIES) for side in SPLITS},
            "unused": {kind: n for kind, n in kinds.items() if n},
            "lost": list(self._lost()),
            "cut": [
                {"id": row["id"], "split": row_split, "why": self._cut(row)}
                for modality, row_split, shards in self._shards()
                if modality == "audio"
                for row in shards.records
                if row.get("clipped")
            ],
            "stale": self.stale,
            "tasks": self._tasks(),
        }

    def story(self, name: str) -> dict[str, Any]:
        """All that is known of the record with that id.

        Raises:
            UserError: no record has this id.
        """
        lost = [one for one in self._lost() if one["id"] == name]
        manifest, split = self._file("manifest", "manifest.jsonl"), self._file("split", "split.jsonl")
        record = _first(manifest, name)
        side = _first(split, name)
        stored = next(self._stored(name), None)
        if record is not None and stored is None and (kind := record["modality"]) in self._without_codec():
            why = "no codec for its modality"
            lost.append({"stage": "codecs", "id": name, "where": f"codecs.{kind}", "why": why})
        if not lost and record is None and stored is None:
            fix = "`doit records` lists what was left out"
            raise UserError("no such record", where=self.root.name, found=name, fix=fix)
        return {
            "id": name,
            "lost": lost,
            "record": record or (stored and stored["record"]),
            "split": side["split"] if side else (stored and stored["split"]),
            "tokens": stored and {key: stored[key] for key in ("shard", "row", "cut", "ids")},
            "tasks": self._fates(stored) if stored else {},
            "outputs": list(self._outputs(name)),
        }

    def _file(self, stage: str, name: str) -> Path | None:
        path = self.root / stage / "data" / name
        return path if path.is_file() else None

    def _lost(self) -> Iterator[dict[str, str]]:
        """{stage, id, where, why} of each record that is in no shard, once: a stage's list repeats those before it."""
        read = next((one for one in ("manifest", "corpus", "split") if self._file(one, "errors.jsonl")), "corpus")
        told = set()
        for stage in (read, "shards"):
            path = self._file(stage, "errors.jsonl")
            for row in iter_jsonl(path) if path else ():
                said = row.get("what", row["kind"])
                found = f"; found {row['found']}" if row.get("found") else ""
                one = {"id": row["id"] or "", "where": row.get("where", ""), "why": f"{said}{found}"}
                if (key := tuple(one.values())) not in told:
                    told.add(key)
                    yield {"stage": stage, **one}

    def _without_codec(self) -> list[str]:
        """Modalities that the run leaves out; of what was imported, such a record is among the errors of `shards`."""
        folder = self.root / "codecs" / "data"
        if not folder.is_dir() or not self._file("manifest", "manifest.jsonl"):
            return []
        return [kind for kind in MODALITIES if not (folder / kind / registry.FILE_NAME).is_file()]

    def _shards(self) -> Iterator[tuple[str, str, ShardSet]]:
        for modality in MODALITIES:
            for split in SPLITS:
                yield modality, split, ShardSet.open(self.root / "shards" / "data", modality, split)

    @staticmethod
    def _cut(row: dict[str, Any]) -> str:
        return f"only the first {row['samples'] / row['sample_rate']:g} s are encoded"

    def _space(self) -> TokenSpace | None:
        folder = self.root / "token_space" / "data"
        return load(folder) if (folder / "token_space.json").is_file() else None

    def _sets(self) -> Iterator[tuple[str, str, ExampleSet]]:
        """(task, split, examples) of what was built."""
        folder, shards, space = self.root / "examples" / "data", self.root / "shards" / "data", self._space()
        if space is None or self.stale:
            return
        for task in TASKS:
            for split in SPLITS:
                if (folder / f"{task}-{split}.safetensors").is_file():
                    yield task, split, ExampleSet.open(folder, shards, space, task, split)

    def _tasks(self) -> dict[str, Any]:
        tasks: dict[str, Any] = {}
        tokenizer = None
        for task, split, examples in self._sets():
            one = tasks.setdefault(task, {"kept": 0, "dropped": [], "shortened": []})
            one["kept"] += len(examples)
            tokenizer = tokenizer or open_tokenizer(self.root / "token_space" / "data")
            for row in self._suspects(task, examples):
                record, payload = examples.shards.record(row), int(examples.shards.lengths[row])
                fate, why = self._fate(task, tokenizer, record["caption"], payload)
                if fate != "kept":
                    one[fate].append({"id": record["id"], "split": split, "why": why})
        return tasks

    def _suspects(self, task: str, examples: ExampleSet) -> np.ndarray:
        """int64: the records that are not among the examples, and those whose prompt is as long as one may be."""
        gone = np.setdiff1d(np.arange(len(examples.shards)), examples.rows)
        if task not in EMIT_TASKS:
            return gone
        room = self.max_seq_len - OVERHEAD - examples.shards.lengths[examples.rows]
        texts = examples.lengths - OVERHEAD - examples.shards.lengths[examples.rows]
        full = texts >= (room if self.max_prompt is None else np.minimum(room, self.max_prompt))
        return np.union1d(gone, examples.rows[full])

    def _fate(self, task: str, tokenizer: Any, caption: str, payload: int) -> tuple[str, str]:
        """(kept, dropped or shortened, why), by the rule of stage `examples`."""
        text = len(tokenizer.encode(caption, add_special_tokens=False).ids)
        chosen = select(task, np.array([text]), np.array([payload]), self.max_seq_len, self.max_prompt)
        parts = f"{text} caption + {payload} payload + {OVERHEAD} special tokens"
        if not len(chosen.kept):
            (reason,) = chosen.dropped
            over = f", more than examples.max_seq_len {self.max_seq_len}" if reason == "too_long" else ""
            return "dropped", f"{WHY[reason]}: {parts}{over}"
        used = int(chosen.text_lengths[0])
        if used < text:
            return "shortened", f"the prompt has the first {used} of the caption's {text} tokens"
        return "kept", parts

    def _stored(self, name: str) -> Iterator[dict[str, Any]]:
        for modality, split, shards in self._shards():
            for at, row in enumerate(shards.records):
                if row["id"] == name:
                    ends = np.cumsum([header["n"] for header in shards.headers])
                    path = shards.files[int(np.searchsorted(ends, at, "right"))]
                    yield {
                        "modality": modality,
                        "split": split,
                        "record": row,
                        "shard": path.relative_to(self.root).as_posix(),
                        "row": at,
                        "cut": self._cut(row) if row.get("clipped") else "",
                        "ids": shards.ids(at).tolist(),
                    }

    def _fates(self, stored: dict[str, Any]) -> dict[str, str]:
        if self.stale or not self._file("examples", "drops.json"):
            return {}
        tokenizer = open_tokenizer(self.root / "token_space" / "data")
        caption, payload = stored["record"]["caption"], len(stored["ids"])
        tasks = (task for task in TASKS if MODALITY_OF[task] == stored["modality"])
        return {task: ": ".join(self._fate(task, tokenizer, caption, payload)) for task in tasks}

    def _outputs(self, name: str) -> Iterator[dict[str, Any]]:
        """What the model made of a golden item, checkpoint by checkpoint: text, or the path of a file."""
        files = (self.root / "generate" / "data" / "qual").glob("step_*/**/step_*_golden_*.jsonl")
        for path in sorted(files, key=lambda one: (int(one.name.split("_")[1]), one.as_posix())):
            for row in iter_jsonl(path):
                if row["id"] == name:
                    made = (path.parent / row["path"]).relative_to(self.root).as_posix() if row["path"] else ""
                    yield {
                        **{key: row[key] for key in ("step", "task", "decoding")},
                        "text": row["text"] or "",
                        "path": made,
                        "fault": row["fault"] or row["decode_error"] or "",
                    }


def _first(path: Path | None, name: str) -> dict[str, Any] | None:
    return next((row for row in iter_jsonl(path) if row["id"] == name), None) if path else None
